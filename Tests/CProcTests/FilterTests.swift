// Socket filters as locks, and the initial congestion window.

import CProc
import Glibc
import Testing

extension KernelCalls {
    @Suite(.enabled(if: isRoot)) struct Filters {
        /// "Accept the first `length` bytes" as a classic instruction: BPF_RET | BPF_K.
        private func accept(_ length: UInt32) -> UInt64 {
            UInt64(length) << 32 | 0x06
        }

        @Test func `the drop program makes segments vanish, and detaching lets the retransmission in`() throws {
            let drop = try check(cproc_drop_program())
            defer { close(drop) }
            #expect(fcntl(drop, F_GETFD) == FD_CLOEXEC)
            try withConnection { client, server in
                try check(cproc_attach_program(server, drop))
                try write(client, "held")
                usleep(50000)
                #expect(cproc_siocinq(server) == 0)
                #expect(cproc_siocoutq(client) == 4, "not acknowledged")
                #expect(try tcpInfo(client).state == established, "no reset")
                try check(cproc_detach_filter(server))
                #expect(try read(server) == "held")
                try check(cproc_detach_filter(server))
            }
        }

        @Test func `one program serves many sockets`() throws {
            let drop = try check(cproc_drop_program())
            try withConnection { client, server in
                try check(cproc_attach_program(server, drop))
                try check(cproc_attach_program(client, drop))
                close(drop)
                try write(client, "1")
                try write(server, "2")
                usleep(20000)
                #expect(cproc_siocinq(server) == 0 && cproc_siocinq(client) == 0)
                try check(cproc_repair(client, repairOn))
                try check(cproc_repair(server, repairOn))
            }
        }

        @Test func `a locked filter is known before it is in the way`() throws {
            let drop = try check(cproc_drop_program())
            defer { close(drop) }
            try withConnection { _, server in
                #expect(cproc_filter_locked(server) == 0)
                try check(cproc_setsockopt_int(server, SOL_SOCKET, SO_LOCK_FILTER, 1))
                #expect(cproc_filter_locked(server) == 1)
                #expect(cproc_attach_program(server, drop) == -EPERM)
                #expect(cproc_set_filter(server, [accept(~0)], 1) == -EPERM)
                #expect(cproc_detach_filter(server) == -EPERM)
            }
        }

        @Test func `a socket's own filter is read back and put on another`() throws {
            try withConnection { client, server in
                var program = [UInt64](repeating: 0, count: 16)
                #expect(cproc_get_filter(server, &program, 16) == 0)
                let own = [UInt64(0x80), accept(~0)]  // load the length, accept
                try check(cproc_set_filter(server, own, 2))
                #expect(cproc_get_filter(server, &program, 1) == 2)
                #expect(program[0] == 0, "nothing is copied when not all fits")
                #expect(cproc_get_filter(server, &program, 16) == 2)
                #expect(Array(program.prefix(2)) == own)
                try write(client, "passes")
                #expect(try read(server) == "passes")
                #expect(cproc_set_filter(client, own, 70000) == -EINVAL, "a count that 16 bits would cut")
            }
        }

        @Test func `an eBPF filter is not handed out`() throws {
            let drop = try check(cproc_drop_program())
            defer { close(drop) }
            try withConnection { _, server in
                try check(cproc_attach_program(server, drop))
                #expect(cproc_get_filter(server, nil, 0) == -EACCES)
                try check(cproc_repair(server, repairOn))
            }
        }
    }

    @Suite(.enabled(if: isRoot)) struct InitialWindow {
        /// The cgroup that this process's sockets belong to.
        private func ownCgroup() throws -> Int32 {
            let cgroups = try run(["cat", "/proc/\(getpid())/cgroup"]).output.split(separator: "\n")
            let own = try #require(cgroups.first { $0.hasPrefix("0::") }).dropFirst(3)
            return try libc(open(cgroupMount() + own, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
        }

        private func congestionWindow(_ netns: Int32, localPort: UInt16, remotePort: UInt16) throws -> UInt32 {
            var (local, peer) = (endpoint("127.0.0.1", localPort), endpoint("127.0.0.1", remotePort))
            let fd = try makeSocket(local, netns: netns)
            defer { close(fd) }
            try check(cproc_repair(fd, repairOn))
            try check(cproc_bind(fd, &local))
            try check(cproc_connect(fd, &peer))
            return try tcpInfo(fd).snd_cwnd
        }

        // The high bytes above 0x7f would be sign-extended in a comparison of 64 bits.
        @Test(arguments: [(1000, 2000), (61234, 0xff80)] as [(UInt16, UInt16)])
        func `a connect in repair mode gets the window, and only the one that is meant`(localPort: UInt16, remotePort: UInt16) throws {
            let cgroup = try ownCgroup()
            defer { close(cgroup) }
            try withNetns { netns in
                let link = try check(cproc_initial_window(cgroup, localPort, remotePort, 321))
                #expect(fcntl(link, F_GETFD) == FD_CLOEXEC)
                #expect(try congestionWindow(netns, localPort: localPort, remotePort: remotePort) == 321)
                #expect(try congestionWindow(netns, localPort: localPort + 1, remotePort: remotePort) == 10)
                #expect(try congestionWindow(netns, localPort: localPort, remotePort: remotePort + 1) == 10)
                #expect(try congestionWindow(netns, localPort: remotePort, remotePort: localPort) == 10)
                close(link)
                #expect(try congestionWindow(netns, localPort: localPort, remotePort: remotePort) == 10)
            }
        }

        @Test func `no window and no cgroup are refused`() throws {
            let cgroup = try ownCgroup()
            defer { close(cgroup) }
            #expect(cproc_initial_window(cgroup, 1, 2, 0) == -EINVAL)
            #expect(cproc_initial_window(-1, 1, 2, 10) == -EBADF)
        }
    }
}
