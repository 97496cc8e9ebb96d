// What a decision has to ask this host: the processes of a server, and the uid of a user. A value, so that tests can answer.

import Glibc
import SCEngine

package struct Lookup: Sendable {
    /// The processes of a server, the one that started the others first; none: it does not run.
    package var pids: @Sendable (Policy.Server) -> [Int32]
    /// The uid of a user by name; nil: there is none.
    package var uid: @Sendable (String) -> UInt32?

    package init(pids: @escaping @Sendable (Policy.Server) -> [Int32], uid: @escaping @Sendable (String) -> UInt32?) {
        (self.pids, self.uid) = (pids, uid)
    }

    /// Asks this host.
    package static let system = Lookup(
        pids: { server in
            switch server {
            case .named(let name): processes(named: name)
            case .pidFile(let path): process(inFile: path)
            }
        },
        uid: { name in
            var (entry, found): (passwd, UnsafeMutablePointer<passwd>?) = (passwd(), nil)
            var buffer = [CChar](repeating: 0, count: 16384)
            guard getpwnam_r(name, &entry, &buffer, buffer.count, &found) == 0, found != nil else { return nil }
            return entry.pw_uid
        })

    /// Everybody can call a process as they like, so the name is that of the program's file.
    private static func processes(named name: String) -> [Int32] {
        let found = numericEntries(of: "/proc").filter { program(of: $0) == name }
        // A worker's parent is of the same name; the first of the family comes first.
        let family = Set(found)
        return found.sorted { (family.contains(parent(of: $0)) ? 1 : 0, $0) < (family.contains(parent(of: $1)) ? 1 : 0, $1) }
    }

    private static func process(inFile path: String) -> [Int32] {
        guard let words = text(of: path)?.split(whereSeparator: \.isWhitespace), let pid = words.first.flatMap({ Int32($0) }), pid > 0,
            access("/proc/\(pid)", F_OK) == 0
        else { return [] }
        return [pid]
    }

    /// The last part of the path of its program; nil for kernel threads and where we may not look.
    private static func program(of pid: Int32) -> String? {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = buffer.withUnsafeMutableBytes { readlink("/proc/\(pid)/exe", $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count) }
        guard count > 0 else { return nil }
        var path = String(decoding: buffer.prefix(count), as: UTF8.self)
        // A server whose program was upgraded runs on with the old file.
        if path.hasSuffix(" (deleted)") { path.removeLast(10) }
        return path.split(separator: "/").last.map(String.init)
    }

    private static func parent(of pid: Int32) -> Int32 {
        guard let text = text(of: "/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else { return 0 }
        let fields = text[text.index(after: end)...].split(separator: " ")
        return fields.count > 1 ? Int32(fields[1]) ?? 0 : 0
    }

    /// The first page of a file.
    private static func text(of path: String) -> String? {
        let file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = read(file, &buffer, buffer.count)
        return count < 0 ? nil : String(decoding: buffer.prefix(count), as: UTF8.self)
    }
}

extension Policy.Server {
    package var description: String {
        switch self {
        case .named(let name): name
        case .pidFile(let path): "the process of \(path)"
        }
    }
}
