// SOCK_DIAG dumps.

import CProc
import Glibc
import Testing

private func inetSockets(
    _ netlink: Int32, _ family: Int32 = AF_INET, protocol: Int32 = tcp, states: UInt32 = ~0, extensions: Bool = false
) throws -> [cproc_inet_diag] {
    var found: [cproc_inet_diag] = []
    let answer = withUnsafeMutablePointer(to: &found) {
        cproc_diag_inet(
            netlink, UInt8(family), UInt8(`protocol`), states, extensions ? 1 : 0,
            { socket, context in
                context!.assumingMemoryBound(to: [cproc_inet_diag].self).pointee.append(socket!.pointee)
                return 0
            },
            { $0!.assumingMemoryBound(to: [cproc_inet_diag].self).pointee.removeAll() }, $0)
    }
    try check(answer)
    return found
}

private func unixSockets(_ netlink: Int32) throws -> [UInt64: cproc_unix_diag] {
    var found: [UInt64: cproc_unix_diag] = [:]
    let answer = withUnsafeMutablePointer(to: &found) {
        cproc_diag_unix(
            netlink,
            { socket, context in
                context!.assumingMemoryBound(to: [UInt64: cproc_unix_diag].self).pointee[socket!.pointee.inode] = socket!.pointee
                return 0
            }, nil, $0)
    }
    try check(answer)
    return found
}

private func inode(_ fd: Int32) throws -> UInt64 {
    var stat = cproc_stat()
    try check(cproc_fstat(fd, &stat))
    return stat.inode
}

extension KernelCalls {
    @Suite(.enabled(if: isRoot)) struct Diagnosis {
        private func withDiag(_ body: (_ netns: Int32, _ netlink: Int32) throws -> Void) throws {
            try withNetns { netns in
                let netlink = try check(inNetns(netns) { cproc_diag_open() })
                defer { close(netlink) }
                try body(netns, netlink)
            }
        }

        @Test(arguments: ["127.0.0.1", "::1"]) func `a connection is seen with its queue, inode and cookie`(address: String) throws {
            try withDiag { netns, netlink in
                try withConnection(address, netns: netns) { client, server in
                    try write(client, "12345")
                    #expect(eventually { cproc_siocinq(server) == 5 })
                    let family = Int32(endpoint(address).family)
                    let sockets = try inetSockets(netlink, family, states: 1 << UInt32(established))
                    #expect(sockets.count == 2)
                    let socket = try #require(try sockets.first { try $0.inode == inode(server) })
                    #expect(socket.local.host == address && socket.peer.host == address)
                    let (local, peer) = (try localEndpoint(server), try peerEndpoint(server))
                    #expect(socket.local.port == local.port && socket.peer.port == peer.port)
                    #expect(socket.receive_queue == 5 && socket.send_queue == 0 && socket.state == established)
                    #expect(socket.family == UInt8(family) && socket.protocol == UInt8(tcp) && socket.uid == geteuid())
                    #expect(text(socket.congestion) == "", "not asked for")
                    var cookie: UInt64 = 0
                    try check(cproc_socket_cookie(server, &cookie))
                    #expect(socket.cookie == cookie)
                    let other = family == AF_INET ? AF_INET6 : AF_INET
                    #expect(try inetSockets(netlink, other).isEmpty)
                }
            }
        }

        @Test func `states select: a listener has its backlog`() throws {
            try withDiag { netns, netlink in
                try withConnection(netns: netns) { _, _ in
                    let listeners = try inetSockets(netlink, states: 1 << UInt32(listening))
                    #expect(listeners.count == 1)
                    #expect(listeners[0].send_queue == 16 && listeners[0].receive_queue == 0)
                    #expect(try inetSockets(netlink).count == 3)
                    #expect(try inetSockets(netlink, states: 1 << UInt32(closeWait)).isEmpty)
                }
            }
        }

        @Test func `a v4-mapped connection is found among IPv6 as it is`() throws {
            try withDiag { netns, netlink in
                try withConnection("127.0.0.1", listenOn: "::", netns: netns) { _, server in
                    let sockets = try inetSockets(netlink, AF_INET6, states: 1 << UInt32(established))
                    #expect(sockets.map(\.inode) == [try inode(server)])
                    #expect(sockets[0].local.host == "::ffff:127.0.0.1" && sockets[0].family == UInt8(AF_INET6))
                }
            }
        }

        @Test func `a namespace's dump has only its own sockets, from any thread`() throws {
            try withDiag { _, netlink in
                try withConnection { _, server in
                    #expect(try inetSockets(netlink).isEmpty)
                    let own = try check(cproc_diag_open())
                    defer { close(own) }
                    #expect(try inetSockets(own).contains { try $0.inode == inode(server) })
                }
            }
        }

        @Test func `extensions tell congestion control and MD5 keys`() throws {
            try withDiag { netns, netlink in
                try withConnection(netns: netns) { client, server in
                    var name = [UInt8](repeating: 0, count: 16)
                    try check(cproc_setsockopt(client, tcp, TCP_CONGESTION, "reno", 4))
                    try check(cproc_getsockopt(server, tcp, TCP_CONGESTION, &name, 16))
                    let sockets = try inetSockets(netlink, states: 1 << UInt32(established), extensions: true)
                    let found = Dictionary(uniqueKeysWithValues: sockets.map { ($0.inode, $0) })
                    #expect(text(try #require(found[try inode(client)]).congestion) == "reno")
                    let usual = String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
                    #expect(text(try #require(found[try inode(server)]).congestion) == usual)
                    #expect(sockets.allSatisfy { $0.has_md5 == 0 && $0.has_ulp == 0 })

                    // struct tcp_md5sig: an address of 128 bytes, flags, prefix length, key length, interface, 80 bytes of key.
                    var key = [UInt8](repeating: 0, count: 216)
                    key.replaceSubrange(0..<8, with: [UInt8(AF_INET), 0, 0, 0, 192, 0, 2, 1])
                    (key[130], key[136]) = (3, 7)
                    let set = cproc_setsockopt(server, tcp, TCP_MD5SIG, key, 216)
                    if set == -ENOPROTOOPT { return }  // a kernel without CONFIG_TCP_MD5SIG
                    try check(set)
                    let keyed = try inetSockets(netlink, states: 1 << UInt32(established), extensions: true).filter { $0.has_md5 != 0 }
                    #expect(keyed.map(\.inode) == [try inode(server)])
                }
            }
        }

        @Test func `a subflow of MPTCP is told by its upper layer`() throws {
            try withDiag { netns, netlink in
                let multipath: Int32 = 262  // IPPROTO_MPTCP
                let listener = cproc_socket_in(netns, AF_INET, stream, multipath)
                if listener == -EPROTONOSUPPORT { return }  // a kernel without CONFIG_MPTCP
                let client = try check(cproc_socket_in(netns, AF_INET, stream, multipath))
                defer { closeAll([listener, client]) }
                var address = endpoint("127.0.0.1", 1000)
                try check(cproc_bind(listener, &address))
                try libc(listen(listener, 1))
                try check(cproc_connect(client, &address))
                let subflows = try inetSockets(netlink, states: 1 << UInt32(established), extensions: true)
                #expect(subflows.count == 2)
                #expect(subflows.allSatisfy { $0.has_ulp == 1 && text($0.ulp) == "mptcp" })
            }
        }

        @Test func `a dump can be ended early, and the next one is complete`() throws {
            try withDiag { netns, netlink in
                var sockets: [Int32] = []
                defer { closeAll(sockets) }
                for _ in 0..<500 {
                    var any = endpoint("127.0.0.1")
                    let socket = try makeSocket(any, type: datagram, netns: netns)
                    sockets.append(socket)
                    try check(cproc_bind(socket, &any))
                }
                var calls = 0
                let answer = withUnsafeMutablePointer(to: &calls) {
                    cproc_diag_inet(
                        netlink, UInt8(AF_INET), UInt8(IPPROTO_UDP), ~0, 0,
                        { _, context in
                            context!.assumingMemoryBound(to: Int.self).pointee += 1
                            return 77
                        }, nil, $0)
                }
                #expect(answer == 77 && calls == 1)
                let all = try inetSockets(netlink, protocol: Int32(IPPROTO_UDP))
                #expect(Set(all.map(\.inode)) == Set(try sockets.map(inode)))
            }
        }

        @Test func `the kernel's refusal is the result`() throws {
            try withDiag { _, netlink in
                #expect(cproc_diag_inet(netlink, 99, UInt8(tcp), ~0, 0, { _, _ in 0 }, nil, nil) < 0)
                #expect(cproc_diag_inet(netlink, UInt8(AF_INET), UInt8(tcp), ~0, 0, { _, _ in 0 }, nil, nil) == 0)
            }
        }

        @Test func `unix sockets know their peers, names and queues`() throws {
            try withDiag { netns, netlink in
                let address = sockaddr_un(abstract: "sccp-diag")
                let listener = try check(cproc_socket_in(netns, AF_UNIX, stream, 0))
                defer { close(listener) }
                try libc(withSockaddr(address, length: 2 + 1 + 9) { bind(listener, $0, $1) })
                try libc(listen(listener, 4))
                let client = try check(cproc_socket_in(netns, AF_UNIX, stream, 0))
                defer { close(client) }
                try libc(withSockaddr(address, length: 2 + 1 + 9) { connect(client, $0, $1) })
                let server = try libc(accept(listener, nil, nil))
                defer { close(server) }
                try write(client, "123")
                shutdown(client, Int32(SHUT_WR))

                let sockets = try unixSockets(netlink)
                #expect(sockets.count == 3)
                let (found, peer) = (try #require(sockets[try inode(client)]), try #require(sockets[try inode(server)]))
                #expect(found.peer_inode == peer.inode && peer.peer_inode == found.inode)
                #expect(peer.receive_queue == 3 && text(peer.name) == "@sccp-diag" && text(found.name) == "")
                #expect(found.type == UInt8(stream) && found.state == established && found.shutdown == 2 && peer.shutdown == 1)
                let waiting = try #require(sockets[try inode(listener)])
                #expect(waiting.peer_inode == 0 && waiting.state == listening && waiting.send_queue == 4)

                var one = cproc_unix_diag()
                #expect(cproc_diag_unix_one(netlink, peer.inode, &one) == 0)
                #expect(one.inode == peer.inode && one.peer_inode == found.inode && text(one.name) == "@sccp-diag" && one.receive_queue == 3)
                #expect(cproc_diag_unix_one(netlink, 0xffff_fff0, &one) == -ENOENT)
            }
        }
    }
}

extension sockaddr_un {
    fileprivate init(abstract name: String) {
        self.init()
        sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &sun_path) { $0[1...].copyBytes(from: name.utf8) }
    }
}

private func withSockaddr(_ address: sockaddr_un, length: Int, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
    withUnsafePointer(to: address) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(length)) } }
}
