// The little of HTTP that the adapter reads: heads as clients send them, and as nginx leaves them in its memory.

@testable import SCEngine
import SCImage
import Testing

@Suite struct HTTPTests {
    @Test func `a request head is read, and its length is the bytes on the wire`() throws {
        let text = "GET /big.bin?x=1 HTTP/1.1\r\nHost: a.example\r\nRange: bytes=5-99\r\n\r\n"
        let request = try #require(HTTPRequest(head: Array((text + "GET /next").utf8)))
        #expect(request.target == "/big.bin?x=1" && request.path == "/big.bin" && request.value("host") == "a.example")
        #expect(request.length == text.utf8.count)
        #expect(request.range?.first == 5 && request.range?.last == 99)
        #expect(!request.isLast)
        #expect(String(decoding: request.text(method: "GET"), as: UTF8.self) == text)
    }

    @Test func `a head whose separators nginx has overwritten with NUL is the same request`() throws {
        let plain = try #require(HTTPRequest(head: Array("GET /f HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n".utf8)))
        let kept = try #require(HTTPRequest(head: Array("GET /f HTTP/1.1\r\nHost\0 h\0\nAccept\0 */*\0\n\r\n".utf8)))
        #expect(plain == kept)
    }

    @Test(arguments: [
        "", "GET /f HTTP/1.1\r\nHost: h\r\n", "POST / HTTP/1.1\r\n\r\n", "GET f HTTP/1.1\r\n\r\n", "GET / SPDY\r\n\r\n",
        "GET /\u{1} HTTP/1.1\r\n\r\n",
    ])
    func `what is no whole GET head is none`(text: String) {
        #expect(HTTPRequest(head: Array(text.utf8)) == nil)
    }

    @Test func `responses say their length, range and identity`() throws {
        let text = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-99/200\r\nContent-Length: 95\r\nETag: \"e\"\r\n\r\nbody"
        let response = try #require(HTTPResponse(Array(text.utf8)))
        #expect(response.status == 206 && response.contentLength == 95 && response.length == text.utf8.count - 4)
        #expect(response.contentRange?.first == 5 && response.contentRange?.last == 99 && response.contentRange?.size == 200)
        #expect(response.validator(size: 200) == "\"e\" 200")
        #expect(HTTPResponse(Array("HTTP/1.1 200 OK\r\n".utf8)) == nil)
    }

    @Test func `the adapter's state survives being written`() throws {
        let request = HTTPRequest(target: "/f", fields: [.init(name: "Host", value: "h"), .init(name: "User-Agent", value: "c/1 (x; y)")])
        let download = HTTPState.Download(request: request, anchor: -241, first: 0, last: 999, validator: "\"6553f100-1\" 1000", position: 17)
        let state = HTTPState(download: download)
        try #expect(HTTPState(state.encoded) == state)
        try #expect(HTTPState(HTTPState(download: nil).encoded) == HTTPState(download: nil))
        for damaged in ["", "download\n", "download\nanchor x\n\nGET / HTTP/1.1\r\n\r\n", "idle"] {
            #expect(throws: CheckpointError.self) { try HTTPState(AdapterState(name: "http", bytes: Array(damaged.utf8))) }
        }
    }
}
