// An archive with many images: listing them takes memory for the answer, not for the images.

import FoundationEssentials
import Glibc
import SCArchive
import SCEngine
import SCImage
import Support
import Testing

@Suite(.serialized)
struct ManyImagesTests {
    private let scratch = Scratch()
    /// SC_ARCHIVE_IMAGES: how many; 10,000 is the full size.
    private static let count = getenv("SC_ARCHIVE_IMAGES").flatMap { Int(String(cString: $0)) } ?? 400

    /// Runs the tool; its output, its largest resident set in KiB, and how long it took in milliseconds.
    private func run(_ arguments: [String]) throws -> (output: String, resident: Int, milliseconds: Double) {
        // The kernel counts the process that starts a program as that program's (exec_mmap), so a small one has to.
        let script = """
            import resource, subprocess, sys, time
            start = time.monotonic()
            status = subprocess.call(sys.argv[2:], stdout=open(sys.argv[1], "w"))
            print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, 1000 * (time.monotonic() - start))
            """
        let output = "\(scratch.path)/output"
        let program = getenv("SC_TOOL").map { String(cString: $0) } ?? Lab.program("sc-checkpoint")
        let result = try runCommand(
            ["python3", "-c", script, output, program, "archive"] + arguments + ["--archive", scratch.archivePath], timeout: 60_000)
        let words = result.output.split(whereSeparator: \.isWhitespace)
        try #require(words.count == 3 && words[0] == "0", "\(result)")
        return (readText(output) ?? "", try #require(Int(words[1])), try #require(Double(words[2])))
    }

    @Test func `a list with a filter`() throws {
        let archive = try scratch.archive()
        func add(_ clients: Range<Int>) throws {
            for client in clients {
                // 8 KiB that do not compress: all images together are far more than the list may take.
                _ = try archive.add([Sample.session(client, sent: Sample.noise(8192))], Sample.inventory, Archive.Details())
            }
        }
        try add(0..<100)
        let few = try run(["list", "--peer", "192.0.2.8", "--json"])
        try add(100..<Self.count)
        let many = try run(["list", "--peer", "192.0.2.8", "--json"])
        #expect(many.output.components(separatedBy: "\"reason\"").count - 1 == (Self.count + 242) / 250)
        // Half a KiB for each name, and what was found: the images have 8 KiB each.
        #expect(many.resident < few.resident + 2048 + Self.count / 2, "\(few.resident) KiB became \(many.resident)")
        unlink("\(scratch.archivePath)/index")
        let rebuilt = try run(["list", "--peer", "192.0.2.8", "--json"])
        #expect(rebuilt.output == many.output)
        let all = try run(["list"])
        #expect(all.output.split(separator: "\n").count == Self.count + 1)
        print(
            "list with a filter: \(few.milliseconds) ms of 100 images, \(many.milliseconds) ms of \(Self.count), \(rebuilt.milliseconds) ms without an index; "
                + "all of them as a table \(all.milliseconds) ms; resident \(few.resident), \(many.resident), \(rebuilt.resident), \(all.resident) KiB"
        )
    }
}
