// Descriptors over Unix sockets.

import CProc
import Glibc
import Testing

extension KernelCalls {
    @Suite struct Descriptors {
        /// A pipe whose writing end may travel: its reading end sees the end of the stream when the last copy is closed.
        private func withPipe(_ body: (_ reading: Int32, _ writing: Int32) throws -> Void) throws {
            let (reading, writing) = try makePipe()
            defer { close(reading) }
            try body(reading, writing)
        }

        private func isOver(_ reading: Int32) -> Bool {
            cproc_poll(reading, 0, 2000) & Int32(POLLHUP) != 0
        }

        @Test func `a descriptor arrives as the same open file, closed on exec`() throws {
            try withSocketPair { sender, receiver in
                try withPipe { reading, writing in
                    #expect(cproc_send_fds(sender, "hello", 5, [writing], 1) == 5)
                    var bytes = [UInt8](repeating: 0, count: 16)
                    var fds: [Int32] = [-1, -1]
                    var count: Int32 = 2
                    #expect(cproc_recv_fds(receiver, &bytes, 16, &fds, &count) == 5)
                    #expect(String(decoding: bytes.prefix(5), as: UTF8.self) == "hello")
                    try #require(count == 1)
                    #expect(fcntl(fds[0], F_GETFD) == FD_CLOEXEC)
                    #expect(cproc_same_file(getpid(), fds[0], getpid(), writing) == 0)
                    #expect(cproc_same_file(getpid(), fds[0], getpid(), reading) == 1)
                    close(fds[0])
                    close(writing)
                    #expect(isOver(reading))
                }
            }
        }

        @Test func `253 descriptors travel in one message, 254 are refused`() throws {
            try withSocketPair { sender, receiver in
                try withPipe { reading, writing in
                    let many = [Int32](repeating: writing, count: Int(CPROC_MAX_FDS) + 1)
                    #expect(cproc_send_fds(sender, "x", 1, many, CPROC_MAX_FDS + 1) == Int(-EINVAL))
                    #expect(cproc_send_fds(sender, "x", 1, many, CPROC_MAX_FDS) == 1)
                    var byte: UInt8 = 0
                    var fds = [Int32](repeating: -1, count: Int(CPROC_MAX_FDS))
                    var count = CPROC_MAX_FDS
                    #expect(cproc_recv_fds(receiver, &byte, 1, &fds, &count) == 1)
                    #expect(count == CPROC_MAX_FDS)
                    #expect(Set(fds).count == Int(CPROC_MAX_FDS))
                    closeAll(fds)
                    close(writing)
                    #expect(isOver(reading))
                }
            }
        }

        @Test(arguments: [0, 1, 2] as [Int32]) func `a surplus descriptor is closed, and so are those that had room`(room: Int32) throws {
            try withSocketPair { sender, receiver in
                try withPipe { reading, writing in
                    #expect(cproc_send_fds(sender, "x", 1, [writing, writing, writing], 3) == 1)
                    close(writing)
                    var byte: UInt8 = 0
                    var fds: [Int32] = [-1, -1, -1]
                    var count = room
                    #expect(cproc_recv_fds(receiver, &byte, 1, &fds, &count) == Int(-E2BIG))
                    #expect(count == 0)
                    #expect(isOver(reading))
                }
            }
        }

        @Test func `a message without descriptors and the end of the stream`() throws {
            try withSocketPair { sender, receiver in
                var byte: UInt8 = 0
                var fd: Int32 = -1
                var count: Int32 = 1
                #expect(cproc_send_fds(sender, "x", 1, nil, 0) == 1)
                #expect(cproc_recv_fds(receiver, &byte, 1, &fd, &count) == 1)
                #expect(count == 0)
                shutdown(sender, Int32(SHUT_WR))
                count = 1
                #expect(cproc_recv_fds(receiver, &byte, 1, &fd, &count) == 0)
                #expect(count == 0)
            }
        }

        @Test func `a peer that has gone is EPIPE, not a signal`() throws {
            try withSocketPair { sender, receiver in
                shutdown(receiver, Int32(SHUT_RD))
                #expect(cproc_send_fds(sender, "x", 1, nil, 0) == Int(-EPIPE))
            }
        }

        @Test func `the peer's credentials are this process's own`() throws {
            try withSocketPair { one, _ in
                var pid: pid_t = 0
                var uid: uid_t = 1
                var gid: gid_t = 1
                try check(cproc_peer_credentials(one, &pid, &uid, &gid))
                #expect(pid == getpid() && uid == geteuid() && gid == getegid())
            }
        }
    }
}
