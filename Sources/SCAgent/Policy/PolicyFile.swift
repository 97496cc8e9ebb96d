// The policy's file: believed only when nobody but its owner could have written it.

import Glibc
import SCEngine

extension Policy {
    /// Where the agent looks for it.
    package static let defaultPath = "/etc/sc-checkpoint/agent.json5"

    /// Reads and checks the file. EPERM: somebody else could have written it, or could replace it. EINVAL: its contents.
    package static func load(_ path: String = defaultPath) throws(CheckpointError) -> Policy {
        let slash = path.lastIndex(of: "/")
        let folder = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let name = slash.map { String(path[path.index(after: $0)...]) } ?? path
        // The file is opened in the folder that was looked at, so that the two cannot be of different places.
        let directory = try opened(Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), path)
        try requireOwner(directory.raw, folder, isFolder: true)
        // O_NONBLOCK: a FIFO in its place must not make the agent wait.
        let file = try opened(openat(directory.raw, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), path)
        try requireOwner(file.raw, path, isFolder: false)
        do throws(CheckpointError) {
            return try Policy(json5: try contents(of: file.raw, path))
        } catch {
            var error = error
            if error.what == "the policy cannot be used" { error.what = "the policy \(path) cannot be used" }
            throw error
        }
    }

    private static func opened(_ descriptor: Int32, _ path: String) throws(CheckpointError) -> OwnedDescriptor {
        guard descriptor >= 0 else {
            let advice =
                errno == ENOENT
                ? "Write one; docs/agent.md shows its keys" : errno == ELOOP ? "It is a symbolic link: put the file itself there" : ""
            throw CheckpointError("cannot read the policy \(path)", result: Int(-errno), advice: advice)
        }
        return OwnedDescriptor(descriptor)
    }

    private static func requireOwner(_ descriptor: Int32, _ path: String, isFolder: Bool) throws(CheckpointError) {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw CheckpointError("cannot read the policy \(path)", result: Int(-errno)) }
        let what = isFolder ? "the policy's directory \(path)" : "the policy \(path)"
        guard isFolder || status.st_mode & S_IFMT == S_IFREG else {
            throw CheckpointError("\(what) is not believed", why: "it is not a regular file", errno: EPERM, advice: "Write a file in its place")
        }
        guard status.st_uid == 0 || status.st_uid == geteuid() else {
            throw CheckpointError(
                "\(what) is not believed", why: "it belongs to user \(status.st_uid)", errno: EPERM, advice: "Look into it, then chown root \(path)")
        }
        guard status.st_mode & 0o022 == 0 else {
            throw CheckpointError(
                "\(what) is not believed", why: "others can write it (mode \(String(status.st_mode & 0o7777, radix: 8)))", errno: EPERM,
                advice: "Look into it, then chmod go-w \(path)")
        }
    }

    private static func contents(of descriptor: Int32, _ path: String) throws(CheckpointError) -> [UInt8] {
        let limit = 1 << 20
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = read(descriptor, &chunk, chunk.count)
            guard count >= 0 else { throw CheckpointError("cannot read the policy \(path)", result: Int(-errno)) }
            if count == 0 { return bytes }
            bytes += chunk[..<count]
            guard bytes.count <= limit else {
                throw CheckpointError("the policy \(path) cannot be used", why: "it is longer than \(limit) bytes", errno: EFBIG)
            }
        }
    }
}
