// Socket options, addresses and ioctls.

import CProc
import Glibc
import Testing

/// Counted by a signal handler on the thread of the one test that uses it.
nonisolated(unsafe) private var interruptions = 0

extension KernelCalls {
    @Suite struct Sockets {
        @Test func `queues are counted in both directions`() throws {
            try withConnection { client, server in
                try write(client, "12345")
                #expect(eventually { cproc_siocinq(server) == 5 })
                #expect(eventually { cproc_siocoutq(client) == 0 })
                #expect(cproc_siocoutqnsd(client) == 0)
                #expect(cproc_siocinq(client) == 0)
                shutdown(client, Int32(SHUT_WR))
                #expect(try eventually { try tcpInfo(server).state == closeWait })
                #expect(cproc_siocinq(server) == 5, "the FIN does not count")
            }
        }

        @Test func `the urgent mark is seen`() throws {
            try withConnection { client, server in
                try libc(send(client, "u", 1, Int32(MSG_OOB)))
                #expect(cproc_poll(server, Int16(POLLPRI), 2000) & Int32(POLLPRI) != 0)
                #expect(cproc_siocatmark(server) == 1)
                #expect(cproc_siocatmark(client) == 0)
            }
        }

        @Test(arguments: ["127.0.0.1", "::1"]) func `addresses go to the kernel and back`(address: String) throws {
            try withConnection(address) { client, server in
                let local = try localEndpoint(client)
                let peer = try peerEndpoint(server)
                #expect(local.host == address && local.port != 0)
                #expect(peer.host == address && peer.port == local.port && peer.family == local.family)
                #expect(try peerEndpoint(client).port == localEndpoint(server).port)
            }
        }

        @Test func `a v4-mapped connection stays IPv6`() throws {
            try withConnection("127.0.0.1", listenOn: "::") { _, server in
                let local = try localEndpoint(server)
                #expect(local.family == UInt16(AF_INET6) && local.host == "::ffff:127.0.0.1")
            }
        }

        @Test func `errors of addresses are the kernel's`() throws {
            var target = endpoint("127.0.0.1", 1)
            let socket = try makeSocket(target)
            defer { close(socket) }
            #expect(cproc_connect(socket, &target) == -ECONNREFUSED)
            #expect(cproc_getpeername(socket, &target) == -ENOTCONN)
            target.family = UInt16(AF_UNIX)
            #expect(cproc_bind(socket, &target) == -EAFNOSUPPORT)
            var foreign = endpoint("203.0.113.1")
            #expect(cproc_bind(socket, &foreign) == -EADDRNOTAVAIL)
        }

        @Test func `options are read and written, and the cookie is the socket's own`() throws {
            try withConnection { client, server in
                var value: Int32 = -1
                try check(cproc_setsockopt_int(client, SOL_SOCKET, SO_KEEPALIVE, 1))
                try check(cproc_getsockopt_int(client, SOL_SOCKET, SO_KEEPALIVE, &value))
                #expect(value == 1)
                var linger = Glibc.linger(l_onoff: 1, l_linger: 7)
                try check(cproc_setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, 8))
                linger = Glibc.linger()
                #expect(cproc_getsockopt(client, SOL_SOCKET, SO_LINGER, &linger, 8) == 8)
                #expect(linger.l_linger == 7)
                #expect(cproc_getsockopt_int(client, SOL_SOCKET, 9999, &value) == -ENOPROTOOPT)
                var cookies: [UInt64] = [0, 0, 0]
                try check(cproc_socket_cookie(client, &cookies[0]))
                try check(cproc_socket_cookie(server, &cookies[1]))
                try check(cproc_socket_cookie(client, &cookies[2]))
                #expect(cookies[0] == cookies[2] && cookies[0] != cookies[1] && cookies[0] != 0)
            }
        }

        @Test(.enabled(if: isRoot)) func `a socket tells the namespace it was made in`() throws {
            try withNetns { netns in
                let inside = try check(cproc_socket_in(netns, AF_INET, stream, 0))
                let outside = try check(cproc_socket_in(-1, AF_INET, stream, 0))
                let found = try check(cproc_socket_netns(inside))
                let own = try check(cproc_socket_netns(outside))
                defer { closeAll([inside, outside, found, own]) }
                #expect(cproc_same_netns(found, netns) == 1)
                #expect(cproc_same_netns(own, netns) == 0)
                #expect(fcntl(found, F_GETFD) == FD_CLOEXEC && fcntl(inside, F_GETFD) == FD_CLOEXEC)
            }
        }

        @Test func `poll waits as long as it should`() throws {
            let (reading, writing) = try makePipe()
            defer { close(reading) }
            let before = cproc_monotonic_ns()
            #expect(cproc_poll(reading, Int16(POLLIN), 30) == 0)
            #expect(cproc_monotonic_ns() - before >= 30_000_000)
            try write(writing, "x")
            #expect(cproc_poll(reading, Int16(POLLIN), -1) == POLLIN)
            close(writing)
            #expect(cproc_poll(reading, Int16(POLLIN), -1) == POLLIN | POLLHUP)
        }

        @Test func `an interrupted poll goes on with the time that is left`() throws {
            let (reading, writing) = try makePipe()
            defer {
                close(reading)
                close(writing)
            }
            interruptions = 0
            let former = signal(SIGUSR1) { _ in interruptions += 1 }
            defer { signal(SIGUSR1, former) }
            // The signal is aimed at the thread that polls, from a child that knows its number.
            var unblocked = sigset_t()
            var before = sigset_t()
            sigemptyset(&unblocked)
            sigaddset(&unblocked, SIGUSR1)
            pthread_sigmask(SIG_UNBLOCK, &unblocked, &before)
            defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
            var link = [CChar](repeating: 0, count: 64)
            try libc(readlink("/proc/thread-self", &link, 63))
            let thread = try #require(text(link).split(separator: "/").last)
            let program = """
                import ctypes, time
                for _ in range(3):
                    time.sleep(0.02)
                    ctypes.CDLL(None).tgkill(\(getpid()), \(thread), \(SIGUSR1))
                """
            let start = cproc_monotonic_ns()
            let pid = try CProcTests.start(["python3", "-c", program])
            defer { waitpid(pid, nil, 0) }
            #expect(cproc_poll(reading, Int16(POLLIN), 300) == 0)
            #expect((300_000_000..<2_000_000_000).contains(cproc_monotonic_ns() - start))
            #expect(interruptions == 3)
        }

        @Test func `fstat tells type, size and time`() throws {
            var path = Array("/tmp/sccp-XXXXXX".utf8CString)
            let fd = try libc(mkstemp(&path))
            defer { close(fd) }
            unlink(path)
            try write(fd, "1234567")
            try libc(futimens(fd, [timespec(tv_sec: 1, tv_nsec: 0), timespec(tv_sec: 1_700_000_000, tv_nsec: 123_456_789)]))
            var stat = cproc_stat()
            try check(cproc_fstat(fd, &stat))
            #expect(stat.mode & UInt32(S_IFMT) == UInt32(S_IFREG))
            #expect(stat.size == 7)
            #expect(stat.mtime_ns == 1_700_000_000_123_456_789)
            #expect(cproc_fstat(-1, &stat) == -EBADF)
        }
    }
}
