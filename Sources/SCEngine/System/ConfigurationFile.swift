// Keys and other files of the configuration: read only when nobody else could have written them, written as a whole or not at all.

import Glibc

package enum ConfigurationFile {
    /// Who may have touched a file that is believed.
    package enum Secrecy {
        /// A private key: group and others have no right at all.
        case secret
        /// A peer or a certificate: group and others do not write.
        case trusted
    }

    /// Opens a file for reading; nil when it does not exist. EPERM: others can read a secret, or write what is trusted.
    package static func open(_ path: String, _ secrecy: Secrecy, _ what: String) throws(CheckpointError) -> OwnedDescriptor? {
        let raw = Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        if raw < 0, errno == ENOENT { return nil }
        let file = OwnedDescriptor(try check(raw < 0 ? -errno : raw, "cannot read \(what) \(path)"))
        var status = stat()
        guard fstat(file.raw, &status) == 0 else { throw CheckpointError("cannot read \(what) \(path)", result: Int(-errno)) }
        guard status.st_uid == geteuid() || status.st_uid == 0 else {
            throw CheckpointError(
                "\(what) \(path) is not believed", why: "it belongs to user \(status.st_uid)", errno: EPERM,
                advice: "chown it to the user who runs the tool")
        }
        let forbidden: mode_t = secrecy == .secret ? 0o077 : 0o022
        guard status.st_mode & forbidden == 0 else {
            let mode = String(status.st_mode & 0o7777, radix: 8)
            switch secrecy {
            case .secret:
                throw CheckpointError(
                    "\(what) \(path) is not used", why: "others can read it (mode \(mode))", errno: EPERM,
                    advice: "If nobody has: chmod 600 \(path). Otherwise make a new one")
            case .trusted:
                throw CheckpointError(
                    "\(what) \(path) is not believed", why: "others can write it (mode \(mode))", errno: EPERM,
                    advice: "Look into it, then chmod go-w \(path)")
            }
        }
        return file
    }

    /// The bytes of such a file; nil when it does not exist. EFBIG beyond 64 KiB.
    package static func read(_ path: String, _ secrecy: Secrecy, _ what: String) throws(CheckpointError) -> [UInt8]? {
        guard let file = try open(path, secrecy, what) else { return nil }
        let limit = 64 << 10
        var bytes = [UInt8](repeating: 0, count: limit + 1)
        let count = Glibc.read(file.raw, &bytes, bytes.count)
        try check(count < 0 ? Int(-errno) : count, "cannot read \(what) \(path)")
        guard count <= limit else {
            throw CheckpointError("\(what) \(path) is too large", why: "it has more than \(limit) bytes", errno: EFBIG)
        }
        bytes.removeLast(bytes.count - count)
        return bytes
    }

    /// Writes a file beside its place and moves it there when it is on disk. With `replacing` false a file that is there already stays as it is.
    package static func write(_ path: String, _ bytes: [UInt8], mode: mode_t, replacing: Bool) throws(CheckpointError) {
        let temporary = "\(path).\(getpid()).new"
        unlink(temporary)
        let raw = Glibc.open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)
        let file = OwnedDescriptor(try check(raw < 0 ? -errno : raw, "cannot write \(path)"))
        defer { unlink(temporary) }
        let isWritten = Glibc.write(file.raw, bytes, bytes.count) == bytes.count && fsync(file.raw) == 0
        guard isWritten else { throw CheckpointError("cannot write \(path)", result: Int(-errno)) }
        if replacing {
            try check(rename(temporary, path) == 0 ? 0 : -errno, "cannot write \(path)")
        } else if link(temporary, path) != 0, errno != EEXIST {
            throw CheckpointError("cannot write \(path)", result: Int(-errno))
        }
        let cut = path.lastIndex(of: "/")
        let folder = Glibc.open(cut.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if folder >= 0 {
            fsync(folder)
            close(folder)
        }
    }
}
