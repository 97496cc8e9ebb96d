// TCP_REPAIR: what a dump reads and a restore writes.

import CProc
import Glibc
import Testing

let repairOn = Int32(CPROC_REPAIR_ON)
let repairOff = Int32(CPROC_REPAIR_OFF)
let repairOffNoProbe = Int32(CPROC_REPAIR_OFF_NO_PROBE)
let receiveQueue = Int32(CPROC_QUEUE_RECV)
let sendQueue = Int32(CPROC_QUEUE_SEND)

/// Everything the tests lift out of one connection, in the order that a dump needs.
struct LiftedConnection {
    var local = cproc_endpoint()
    var peer = cproc_endpoint()
    var info = cproc_tcp_info()
    var mssClamp: Int32 = 0
    var timestamp: UInt32 = 0
    var window = cproc_window()
    /// Ends of the queues.
    var receiveEnd: UInt32 = 0
    var sendEnd: UInt32 = 0
    var received: [UInt8] = []
    var unacknowledged: [UInt8] = []

    /// Reads a socket and leaves it in repair mode with the send queue selected.
    init(_ fd: Int32) throws {
        local = try localEndpoint(fd)
        peer = try peerEndpoint(fd)
        try check(cproc_repair(fd, repairOn))
        info = try tcpInfo(fd)
        try check(cproc_getsockopt_int(fd, tcp, TCP_MAXSEG, &mssClamp))
        try check(cproc_timestamp(fd, &timestamp))
        try check(cproc_repair_queue(fd, receiveQueue))
        try check(cproc_queue_seq(fd, &receiveEnd))
        received = try peekQueue(fd)
        try check(cproc_window(fd, &window))
        try check(cproc_repair_queue(fd, sendQueue))
        try check(cproc_queue_seq(fd, &sendEnd))
        unacknowledged = try peekQueue(fd)
    }

    /// A socket in the same state, still in repair mode; the old one must be gone.
    func restore(netns: Int32 = -1) throws -> Int32 {
        let fd = try makeSocket(local, netns: netns)
        try check(cproc_repair(fd, repairOn))
        var (local, peer, window) = (self.local, self.peer, self.window)
        try check(cproc_bind(fd, &local))
        try check(cproc_repair_queue(fd, receiveQueue))
        try check(cproc_set_queue_seq(fd, receiveEnd &- UInt32(received.count)))
        try check(cproc_repair_queue(fd, sendQueue))
        try check(cproc_set_queue_seq(fd, sendEnd &- UInt32(unacknowledged.count)))
        try check(cproc_set_timestamp(fd, timestamp))
        try check(cproc_connect(fd, &peer))
        var negotiated = cproc_negotiated(
            mss_clamp: UInt16(mssClamp), timestamps: info.timestamps, sack: info.sack, wscale: info.wscale,
            snd_scale: info.snd_scale, rcv_scale: info.rcv_scale)
        try check(cproc_set_negotiated(fd, &negotiated))
        try check(cproc_repair_queue(fd, receiveQueue))
        try check(cproc_fill_queue(fd, received, received.count))
        try check(cproc_set_window(fd, &window))
        return fd
    }
}

func peekQueue(_ fd: Int32) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 1 << 20)
    let length = try check(cproc_peek_queue(fd, &bytes, bytes.count))
    return Array(bytes.prefix(length))
}

extension KernelCalls {
    @Suite(.enabled(if: isRoot)) struct Repair {
        @Test func `a connection is lifted out and goes on in a new socket`() throws {
            try withConnection { client, server in
                try write(client, "unread")
                #expect(eventually { cproc_siocinq(server) == 6 })
                let lifted = try LiftedConnection(server)
                #expect(String(decoding: lifted.received, as: UTF8.self) == "unread")
                try libc(dup2(try libc(open("/dev/null", O_RDWR)), server))  // closes it silently
                let restored = try lifted.restore()
                defer { close(restored) }
                try check(cproc_repair(restored, repairOff))
                #expect(try read(restored) == "unread")
                try write(restored, "answer")
                #expect(try read(client) == "answer")
                try write(client, "more")
                #expect(try read(restored) == "more")
                let info = try tcpInfo(restored)
                #expect(info.state == established)
                #expect(info.timestamps == lifted.info.timestamps && info.sack == 1 && info.wscale == 1)
                #expect(info.snd_scale == lifted.info.snd_scale && info.rcv_scale == lifted.info.rcv_scale)
            }
        }

        @Test func `repair mode goes on and off, and a listener is refused`() throws {
            try withConnection { client, server in
                var value: Int32 = -1
                #expect(cproc_repair_queue(server, sendQueue) == -EPERM)
                try check(cproc_repair(server, repairOn))
                try check(cproc_getsockopt_int(server, tcp, TCP_REPAIR, &value))
                #expect(value == 1)
                try check(cproc_repair(server, repairOffNoProbe))
                try check(cproc_getsockopt_int(server, tcp, TCP_REPAIR, &value))
                #expect(value == 0)
                #expect(cproc_repair(server, 2) == -EINVAL)
                try write(client, "alive")
                #expect(try read(server) == "alive")
            }
            let listener = try makeListener("127.0.0.1")
            defer { close(listener) }
            #expect(cproc_repair(listener, repairOn) == -EPERM)
        }

        @Test func `sequence numbers are the ends of the queues and match the peer's`() throws {
            try withConnection { client, server in
                var (before, after, peers) = (UInt32(0), UInt32(0), UInt32(0))
                try check(cproc_repair(server, repairOn))
                #expect(cproc_queue_seq(server, &before) == -EINVAL, "no queue is selected")
                try check(cproc_repair_queue(server, receiveQueue))
                try check(cproc_queue_seq(server, &before))
                try write(client, "12345")
                #expect(eventually { cproc_siocinq(server) == 5 })
                try check(cproc_queue_seq(server, &after))
                #expect(after == before &+ 5)
                try check(cproc_repair(client, repairOn))
                try check(cproc_repair_queue(client, sendQueue))
                try check(cproc_queue_seq(client, &peers))
                #expect(peers == after)
                #expect(cproc_set_queue_seq(client, 1) == -EPERM, "only in CLOSE")
                try check(cproc_repair(client, repairOffNoProbe))
                try check(cproc_repair(server, repairOffNoProbe))
            }
        }

        @Test func `a send queue longer than the buffer is EMSGSIZE, never a short read`() throws {
            try withConnection { client, server in
                let drop = try check(cproc_drop_program())
                defer { close(drop) }
                try check(cproc_attach_program(client, drop))  // so that nothing is acknowledged
                try write(server, String(repeating: "s", count: 3000))
                try check(cproc_repair(server, repairOn))
                try check(cproc_repair_queue(server, sendQueue))
                var bytes = [UInt8](repeating: 0, count: 3000)
                #expect(cproc_peek_queue(server, &bytes, 1000) == Int(-EMSGSIZE))
                #expect(cproc_peek_queue(server, &bytes, 2999) == Int(-EMSGSIZE))
                #expect(cproc_peek_queue(server, &bytes, 3000) == 3000)
                #expect(bytes.allSatisfy { $0 == UInt8(ascii: "s") })
                try check(cproc_repair_queue(server, receiveQueue))
                #expect(cproc_peek_queue(server, &bytes, 3000) == 0)
            }
        }

        @Test func `a megabyte fills the receive queue, and what does not fit is an error`() throws {
            try withConnection { _, server in
                try check(cproc_setsockopt_int(server, SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20))
                try check(cproc_repair(server, repairOn))
                try check(cproc_repair_queue(server, receiveQueue))
                let bytes = (0..<1 << 20).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 8) }
                try check(cproc_fill_queue(server, bytes, bytes.count))
                #expect(try peekQueue(server) == bytes)
                try check(cproc_setsockopt_int(server, SOL_SOCKET, SO_RCVBUF, 65536))
                #expect(cproc_fill_queue(server, bytes, bytes.count) == -ENOBUFS)
                try check(cproc_repair_queue(server, sendQueue))
                try check(cproc_setsockopt_int(server, SOL_SOCKET, SO_SNDBUF, 65536))
                #expect(cproc_fill_queue(server, bytes, bytes.count) == -EAGAIN)
            }
        }

        @Test func `the window is read, and a wrong one is refused`() throws {
            try withConnection { _, server in
                var window = cproc_window()
                #expect(cproc_window(server, &window) == -EPERM)
                try check(cproc_repair(server, repairOn))
                try check(cproc_window(server, &window))
                #expect(window.snd_wnd > 0 && window.max_window >= window.snd_wnd && window.rcv_wnd > 0)
                var changed = window
                changed.snd_wnd = 12345
                try check(cproc_set_window(server, &changed))
                try check(cproc_window(server, &changed))
                #expect(changed.snd_wnd == 12345 && changed.rcv_wup == window.rcv_wup)
                changed.max_window = 12344
                #expect(cproc_set_window(server, &changed) == -EINVAL)
                try check(cproc_set_window(server, &window))
                try check(cproc_repair(server, repairOffNoProbe))
            }
        }

        @Test func `the timestamp clock is carried over`() throws {
            try withConnection { _, server in
                try check(cproc_repair(server, repairOn))
                try check(cproc_set_timestamp(server, 1_000_000))
                var value: UInt32 = 0
                try check(cproc_timestamp(server, &value))
                #expect((1_000_000...1_000_100).contains(value))
                try check(cproc_repair(server, repairOffNoProbe))
            }
        }

        @Test func `options that were not negotiated stay off`() throws {
            try withNetns { netns in
                var (local, peer) = (endpoint("127.0.0.1", 1000), endpoint("127.0.0.1", 2000))
                let fd = try makeSocket(local, netns: netns)
                defer { close(fd) }
                try check(cproc_repair(fd, repairOn))
                try check(cproc_bind(fd, &local))
                var negotiated = cproc_negotiated(mss_clamp: 1000, timestamps: 0, sack: 1, wscale: 1, snd_scale: 3, rcv_scale: 11)
                #expect(cproc_set_negotiated(fd, &negotiated) == -EPERM, "not connected yet")
                try check(cproc_connect(fd, &peer))
                try check(cproc_set_negotiated(fd, &negotiated))
                let info = try tcpInfo(fd)
                #expect(info.timestamps == 0 && info.sack == 1 && info.wscale == 1 && info.snd_scale == 3 && info.rcv_scale == 11)
                negotiated.snd_scale = 15
                #expect(cproc_set_negotiated(fd, &negotiated) == -EFBIG)
            }
        }

        @Test func `the MSS is 1448 again after resync_mss`() throws {
            try withNetns { netns in
                try run(["ip", "link", "set", "lo", "mtu", "1500"], netns: netns)
                try withConnection(netns: netns) { _, server in
                    let lifted = try LiftedConnection(server)
                    #expect(lifted.info.snd_mss == 1448)
                    try libc(dup2(try libc(open("/dev/null", O_RDWR)), server))
                    let restored = try lifted.restore(netns: netns)
                    defer { close(restored) }
                    #expect(try tcpInfo(restored).snd_mss < 600, "as connect() left it")
                    try check(cproc_resync_mss(restored))
                    #expect(try tcpInfo(restored).snd_mss == 1448)
                }
            }
        }

        @Test func `disconnecting in repair mode sends nothing`() throws {
            try withConnection { client, server in
                try check(cproc_repair(server, repairOn))
                try check(cproc_disconnect(server))
                #expect(cproc_poll(client, Int16(POLLIN), 100) == 0)
                #expect(try tcpInfo(server).state == 7)
                #expect(try tcpInfo(client).state == established)
                try check(cproc_repair(client, repairOn))
            }
        }

        @Test func `tcp_info counts bytes and what was not sent`() throws {
            try withConnection { client, server in
                try write(client, "12345")
                _ = try read(server)
                #expect(eventually { (try? tcpInfo(client).bytes_acked) == 6 }, "five and the SYN")
                let info = try tcpInfo(server)
                #expect(info.bytes_received == 5 && info.state == established && info.snd_cwnd == 10 && info.rto_us > 0)
                #expect(info.last_data_recv_ms < 2000)
                try check(cproc_repair(server, repairOn))
                try check(cproc_repair(server, repairOffNoProbe))
            }
        }
    }
}
