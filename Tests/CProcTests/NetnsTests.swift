// Network namespaces, and segments injected into them.

import CProc
import Glibc
import Testing

extension KernelCalls {
    @Suite(.enabled(if: isRoot)) struct Namespaces {
        private func inode(_ fd: Int32) throws -> UInt64 {
            var stat = cproc_stat()
            try check(cproc_fstat(fd, &stat))
            return stat.inode
        }

        @Test func `a new namespace is empty and its loopback is up`() throws {
            try withNetns { netns in
                #expect(fcntl(netns, F_GETFD) == FD_CLOEXEC)
                try withConnection(netns: netns) { client, server in
                    try write(client, "inside")
                    #expect(try read(server) == "inside")
                }
                let links = try run(["ip", "-o", "link"], netns: netns).output.split(separator: "\n")
                #expect(links.count == 1 && links[0].contains("LOOPBACK,UP"))
            }
        }

        @Test func `namespaces are compared by what they are, not by descriptor`() throws {
            try withNetns { one in
                try withNetns { other in
                    let again = dup(one)
                    defer { close(again) }
                    #expect(cproc_same_netns(one, again) == 1)
                    #expect(cproc_same_netns(one, other) == 0)
                    #expect(cproc_same_netns(one, -1) == -EBADF)
                }
            }
        }

        @Test func `a process's namespace is found by its pid`() throws {
            try withNetns { netns in
                let pid = try start(["sleep", "60"], netns: netns)
                defer { end(pid) }
                let found = try check(cproc_pid_netns(pid))
                let own = try check(cproc_pid_netns(getpid()))
                defer { closeAll([found, own]) }
                #expect(cproc_same_netns(found, netns) == 1)
                #expect(cproc_same_netns(own, netns) == 0)
            }
            #expect(cproc_pid_netns(Int32.max) == -ESRCH)
        }

        @Test func `only the throw-away thread enters the namespace, and its result comes back`() throws {
            try withNetns { netns in
                let before = try run(["readlink", "/proc/self/ns/net"]).output
                var seen = [CChar](repeating: 0, count: 64)
                let answer = inNetns(netns) {
                    readlink("/proc/thread-self/ns/net", &seen, 63) < 0 ? -errno : 42
                }
                #expect(answer == 42)
                #expect(text(seen) == "net:[\(try inode(netns))]")
                #expect(try run(["readlink", "/proc/self/ns/net"]).output == before)
                #expect(inNetns(-1) { -7 } == -7)
            }
        }

        @Test func `what is not a namespace is refused, and the body not run`() throws {
            let file = try libc(open("/dev/null", O_RDONLY | O_CLOEXEC))
            defer { close(file) }
            var ran = false
            let answer = inNetns(file) {
                ran = true
                return 0
            }
            #expect(answer == -EINVAL && !ran)
            #expect(cproc_socket_in(file, AF_INET, stream, 0) == -EINVAL)
        }

        @Test func `the body runs with all signals blocked`() {
            #expect(
                inNetns(-1) {
                    var mask = sigset_t()
                    pthread_sigmask(SIG_SETMASK, nil, &mask)
                    return sigismember(&mask, SIGTERM) + sigismember(&mask, SIGCHLD)
                } == 2)
        }
    }

    @Suite(.enabled(if: isRoot)) struct Injection {
        private func withInjector(_ family: UInt16, netns: Int32, _ body: (OpaquePointer) throws -> Void) throws {
            var injector: OpaquePointer?
            try check(inNetns(netns) { cproc_injector_open(family, &injector) })
            defer { cproc_injector_close(injector) }
            try body(try #require(injector))
        }

        /// What the server acknowledges and expects next.
        private func sequences(_ server: Int32) throws -> (expected: UInt32, sent: UInt32) {
            var (expected, sent) = (UInt32(0), UInt32(0))
            try check(cproc_repair(server, repairOn))
            try check(cproc_repair_queue(server, receiveQueue))
            try check(cproc_queue_seq(server, &expected))
            try check(cproc_repair_queue(server, sendQueue))
            try check(cproc_queue_seq(server, &sent))
            try check(cproc_repair(server, repairOffNoProbe))
            return (expected, sent)
        }

        @Test(arguments: ["127.0.0.1", "::1"]) func `a FIN in the peer's name moves a socket to CLOSE_WAIT`(address: String) throws {
            try withNetns { netns in
                try withConnection(address, netns: netns) { client, server in
                    var (peer, local) = (try peerEndpoint(server), try localEndpoint(server))
                    let (expected, sent) = try sequences(server)
                    let flags = UInt8(CPROC_TCP_FIN | CPROC_TCP_ACK)
                    try withInjector(peer.family, netns: netns) { injector in
                        try check(cproc_inject(injector, &peer, &local, expected, sent, flags, 1000, 0))
                    }
                    #expect(try eventually { try tcpInfo(server).state == closeWait })
                    #expect(try read(server) == "", "the end of the stream")
                    #expect(try tcpInfo(client).state == established, "which knows nothing of it")
                    try check(cproc_repair(client, repairOn))
                    try check(cproc_repair(server, repairOn))
                }
            }
        }

        @Test func `an ACK acknowledges: FIN_WAIT1 becomes FIN_WAIT2, for many sockets with one injector`() throws {
            try withNetns { netns in
                let drop = try check(cproc_drop_program())
                defer { close(drop) }
                try withInjector(UInt16(AF_INET), netns: netns) { injector in
                    for _ in 0..<3 {
                        try withConnection(netns: netns) { client, server in
                            try check(cproc_attach_program(client, drop))
                            let (expected, sent) = try sequences(server)
                            shutdown(server, Int32(SHUT_WR))
                            #expect(try tcpInfo(server).state == 4, "FIN_WAIT1")
                            var (peer, local) = (try peerEndpoint(server), try localEndpoint(server))
                            try check(cproc_inject(injector, &peer, &local, expected, sent &+ 1, UInt8(CPROC_TCP_ACK), 1000, 0))
                            #expect(try eventually { try tcpInfo(server).state == 5 }, "FIN_WAIT2")
                            try check(cproc_repair(client, repairOn))
                        }
                    }
                }
            }
        }

        @Test func `the peer may be an address that this host does not have`() throws {
            try withNetns { netns in
                try run(["ip", "route", "add", "203.0.113.0/24", "dev", "lo"], netns: netns)
                var (local, peer) = (endpoint("127.0.0.1", 1000), endpoint("203.0.113.9", 2000))
                let fd = try makeSocket(local, netns: netns)
                defer { close(fd) }
                try check(cproc_repair(fd, repairOn))
                try check(cproc_bind(fd, &local))
                try check(cproc_repair_queue(fd, receiveQueue))
                try check(cproc_set_queue_seq(fd, 5000))
                try check(cproc_repair_queue(fd, sendQueue))
                try check(cproc_set_queue_seq(fd, 7000))
                try check(cproc_connect(fd, &peer))
                try check(cproc_repair(fd, repairOffNoProbe))
                try withInjector(local.family, netns: netns) { injector in
                    try check(cproc_inject(injector, &peer, &local, 5000, 7000, UInt8(CPROC_TCP_FIN | CPROC_TCP_ACK), 1000, 0))
                }
                #expect(try eventually { try tcpInfo(fd).state == closeWait })
                try check(cproc_repair(fd, repairOn))
            }
        }

        @Test func `the mark is that of the segment`() throws {
            try withNetns { netns in
                let rules = "type filter hook input priority 0; meta mark 0x5c counter; tcp flags rst drop;"
                try run(["nft", "-f", "-"], netns: netns, input: "table inet sccp { chain in { \(rules) }; }")
                var (from, to) = (endpoint("127.0.0.1", 1), endpoint("127.0.0.1", 2))
                try withInjector(from.family, netns: netns) { injector in
                    try check(cproc_inject(injector, &from, &to, 1, 1, UInt8(CPROC_TCP_RST), 0, 0x5c))
                    try check(cproc_inject(injector, &from, &to, 1, 1, UInt8(CPROC_TCP_RST), 0, 0x5c))
                    try check(cproc_inject(injector, &from, &to, 1, 1, UInt8(CPROC_TCP_RST), 0, 0))
                }
                #expect(try run(["nft", "list", "ruleset"], netns: netns).output.contains("counter packets 2 bytes 80"))
            }
        }

        @Test func `families that do not match are refused`() throws {
            var injector: OpaquePointer?
            #expect(cproc_injector_open(UInt16(AF_UNIX), &injector) == -EAFNOSUPPORT)
            try withInjector(UInt16(AF_INET), netns: -1) { injector in
                var (from, to) = (endpoint("::1", 1), endpoint("::1", 2))
                #expect(cproc_inject(injector, &from, &to, 1, 1, UInt8(CPROC_TCP_ACK), 0, 0) == -EAFNOSUPPORT)
            }
            cproc_injector_close(nil)
        }
    }
}
