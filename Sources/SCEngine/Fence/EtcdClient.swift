// Requests to etcd over one kept connection, with a deadline over all of its members.

import CHTTP
import FoundationEssentials
import Glibc

/// `etcd://HOST:PORT[,HOST:PORT]/PREFIX`.
package struct EtcdAddress: Sendable, Equatable {
    package let members: [String]
    package let prefix: String

    package init(_ text: String) throws(CheckpointError) {
        func wrong(_ why: String) -> CheckpointError {
            CheckpointError(
                "--fence \(text) is no fence", why: why, errno: EINVAL, advice: "For example --fence etcd://127.0.0.1:2379/sc-checkpoint",
                outcome: .usage)
        }
        guard text.hasPrefix("etcd://") else { throw wrong("only etcd:// is known") }
        let rest = text.dropFirst(7)
        guard let slash = rest.firstIndex(of: "/"), rest.index(after: slash) < rest.endIndex else { throw wrong("the prefix of the keys is missing") }
        members = rest[..<slash].split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        prefix = String(rest[rest.index(after: slash)...])
        for member in members {
            guard let colon = member.lastIndex(of: ":"), colon > member.startIndex, let port = UInt16(member[member.index(after: colon)...]), port > 0
            else { throw wrong("\"\(member)\" is not HOST:PORT") }
            // The host becomes part of a URL.
            let host = member[..<colon]
            let isName = host.utf8.allSatisfy { $0 >= 0x2d && $0 < 0x7f && !"/<>?@\\^`{|}".utf8.contains($0) && $0 != UInt8(ascii: "[") }
            guard isName && !host.contains(":") || host.hasPrefix("[") && host.hasSuffix("]") && PeerFilter(String(host)) != nil else {
                throw wrong("\"\(host)\" is no host (IPv6 in brackets)")
            }
        }
    }
}

/// One connection; used by one thread at a time.
final class EtcdClient {
    let address: EtcdAddress
    private let handle: OpaquePointer
    private let limit: Int
    /// The member that answered last is asked first, over the connection that is there already.
    private var current = 0

    init(_ address: EtcdAddress, limit: Int) throws(CheckpointError) {
        var opened: OpaquePointer?
        try check(chttp_open(&opened), "a fence needs libcurl, and it cannot be loaded", advice: "Install it: apt-get install libcurl4")
        guard let opened else { throw CheckpointError("cannot start libcurl", result: Int(-ENOMEM)) }
        (self.address, handle, self.limit) = (address, opened, limit)
    }

    deinit { chttp_close(handle) }

    /// Posts a message and decodes the answer, from whichever member gives one in time. A member that fails in the middle may have done what it was
    /// asked, so callers only send what may be sent twice.
    func post<Answer: Decodable>(_ path: String, _ message: some Encodable, as type: Answer.Type) throws(CheckpointError) -> Answer {
        guard let body = try? JSONEncoder().encode(message) else { throw failure("a message cannot be written", EINVAL) }
        let deadline = Deadline(milliseconds: limit)
        var reason: (why: String, errno: Int32) = ("no member answered", ETIMEDOUT)
        for attempt in address.members.indices {
            // The last one gets all the time that is left, the others a fair part.
            let share = max(1, Int(deadline.remainingMilliseconds) / (address.members.count - attempt))
            let member = address.members[current]
            let status = body.withUnsafeBytes { chttp_post(handle, "http://\(member)/v3/\(path)", $0.baseAddress, $0.count, Int32(share)) }
            if status == 200, let answer = try? JSONDecoder().decode(type, from: answer) { return answer }
            reason =
                status < 0
                ? ("\(member): \(systemMessage(-status))", -status)
                : ("\(member) answers \(status): \(String(decoding: answer.prefix(200), as: UTF8.self))", EPROTO)
            // A request that one member finds wrong is wrong for all.
            if status >= 400, status < 500 { break }
            current = (current + 1) % address.members.count
            if deadline.hasPassed { break }
        }
        throw failure(reason.why, reason.errno)
    }

    private var answer: Data {
        var length = 0
        guard let start = chttp_answer(handle, &length), length > 0 else { return Data() }
        return Data(bytes: start, count: length)
    }

    private func failure(_ why: String, _ errno: Int32) -> CheckpointError {
        CheckpointError(
            "the fence etcd://\(address.members.joined(separator: ","))/\(address.prefix) gives no permission", why: why, errno: errno,
            advice: "See to it that etcd is reachable from this host (etcdctl endpoint health), or move without --fence")
    }
}
