// Pipes and Unix sockets read without taking anything out.

import CProc
import Glibc
import Testing

extension KernelCalls {
    @Suite struct Local {
        private func pair(_ type: Int32) -> (Int32, Int32) {
            var ends: [Int32] = [-1, -1]
            #expect(cproc_unix_pair(type, .max, .max, &ends) == 0)
            return (ends[0], ends[1])
        }

        @Test func `flags are those of x86 on every machine`() {
            let fd = open("/dev/null", O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC)
            defer { close(fd) }
            #expect(cproc_description_flags(fd) == 0o1 | 0o2000 | 0o4000)
            #expect(cproc_set_description_flags(fd, 0o2000) == 0)
            #expect(cproc_description_flags(fd) == 0o1 | 0o2000)
            #expect(cproc_description_flags(-1) == -EBADF)
            let again = cproc_open_with("/dev/null", 0o2)
            #expect(cproc_description_flags(again) == 0o2 | 0o4000)
            close(again)
            #expect(cproc_open_with("/nowhere/at/all", 0) == -ENOENT)
        }

        @Test func `a copy of a pipe leaves it as it was`() {
            var ends: [Int32] = [-1, -1]
            #expect(cproc_pipe_of(&ends, 131_072) == 0)
            defer { for fd in ends { close(fd) } }
            #expect(cproc_pipe_capacity(ends[0]) == 131_072)
            let bytes = [UInt8](repeating: 7, count: 100_000)
            #expect(cproc_pipe_write(ends[1], bytes, bytes.count, 0) == bytes.count)
            for _ in 0..<3 {
                var copy: Int32 = -1
                #expect(cproc_pipe_copy(ends[0], &copy) == bytes.count)
                var read = [UInt8](repeating: 0, count: 200_000)
                #expect(Glibc.read(copy, &read, read.count) == bytes.count)
                // The original's writer is not the copy's: it has ended.
                #expect(Glibc.read(copy, &read, read.count) == 0)
                close(copy)
            }
            #expect(cproc_siocinq(ends[0]) == bytes.count)
            var copy: Int32 = -1
            #expect(cproc_pipe_copy(ends[1], &copy) == -EBADF)
            #expect(copy == -1)
        }

        @Test func `packets are written one by one`() {
            var ends: [Int32] = [-1, -1]
            #expect(cproc_pipe_of(&ends, 65536) == 0)
            defer { for fd in ends { close(fd) } }
            for packet in ["ab", "c"] { #expect(cproc_pipe_write(ends[1], packet, packet.utf8.count, 1) == packet.utf8.count) }
            var read = [UInt8](repeating: 0, count: 100)
            #expect(Glibc.read(ends[0], &read, 100) == 2 && Glibc.read(ends[0], &read, 100) == 1)
        }

        /// A peek of one byte names the descriptors of a message that begins later; where it begins is found all the same.
        @Test(arguments: [0, 1, 6, 4096, 70_000], [1, 4, 5000]) func `where a message with descriptors begins`(before: Int, length: Int) {
            let (a, b) = pair(Int32(SOCK_STREAM.rawValue))
            defer { close(a); close(b) }
            var bytes = [UInt8](repeating: 1, count: before + length)
            if before > 0 { #expect(send(a, bytes, before, 0) == before) }
            #expect(cproc_send_message(a, bytes, length, [a], 1, nil) == length)
            #expect(send(a, "after", 5, 0) == 5)
            #expect(cproc_setsockopt_int(b, SOL_SOCKET, 42, 0) == 0)
            var (message, fds) = (cproc_message(), [Int32](repeating: -1, count: 253))
            #expect(cproc_peek_message(b, &bytes, 1, &fds, &message) == 0)
            #expect(message.nfds == 1, "a peek looks ahead")
            close(fds[0])
            #expect(cproc_setsockopt_int(b, SOL_SOCKET, 42, 0) == 0)
            bytes = [UInt8](repeating: 0, count: 200_000)
            #expect(cproc_peek_message(b, &bytes, bytes.count, &fds, &message) == 0)
            #expect(message.nfds == 1 && message.length == before + length)
            close(fds[0])
            #expect(cproc_setsockopt_int(b, SOL_SOCKET, 42, 0) == 0)
            #expect(cproc_peek_before_fds(b, message.length) == before)
        }

        @Test func `messages are peeked, dropped and sent with their senders`() {
            let (a, b) = pair(Int32(SOCK_SEQPACKET.rawValue))
            defer { close(a); close(b) }
            var (message, fds, bytes) = (cproc_message(), [Int32](repeating: -1, count: 253), [UInt8](repeating: 0, count: 10))
            #expect(cproc_peek_message(b, &bytes, 10, &fds, &message) == -EAGAIN)
            #expect(cproc_drop_message(b) == -EAGAIN)
            #expect(send(a, "longer than ten", 15, 0) == 15)
            #expect(cproc_peek_message(b, &bytes, 10, &fds, &message) == 0)
            #expect(message.length == 15 && message.is_truncated == 1 && message.has_sender == 0)
            #expect(cproc_drop_message(b) == 15)
            #expect(cproc_drop_message(b) == -EAGAIN)
            let many = [Int32](repeating: a, count: 254)
            #expect(cproc_send_message(a, bytes, 1, many, 254, nil) == -EINVAL)
            close(b)
            #expect(cproc_send_message(a, bytes, 1, nil, 0, nil) == -EPIPE)
        }

        @Test(.enabled(if: geteuid() == 0)) func `a pair shows the user it was made for, and only its thread was that user`() {
            var ends: [Int32] = [-1, -1]
            #expect(cproc_unix_pair(Int32(SOCK_STREAM.rawValue), 12345, 54321, &ends) == 0)
            defer { for fd in ends { close(fd) } }
            var (pid, uid, gid): (Int32, UInt32, UInt32) = (0, 0, 0)
            #expect(cproc_peer_credentials(ends[0], &pid, &uid, &gid) == 0)
            #expect((pid, uid, gid) == (getpid(), 12345, 54321))
            #expect(geteuid() == 0 && getegid() == 0)
        }
    }
}
