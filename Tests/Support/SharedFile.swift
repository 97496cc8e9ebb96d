// Files with random content that both hosts of a lab serve, the same on every run.

internal import CSupport
internal import Glibc

/// A file made by `Lab.makeFile`.
public struct SharedFile: Sendable {
    public let name: String
    public let path: String
    public let bytes: UInt64
    public let seed: UInt64
    /// The digest of the whole content in hexadecimal.
    public let sha256: String

    /// The content at an offset, computed rather than read.
    public func content(at offset: UInt64, count: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: count)
        csupport_content(seed, offset, &result, count)
        return result
    }
}

extension Lab {
    /// The folder that the servers of both hosts serve files from.
    public var documentRoot: String { folder + "/files" }

    /// Makes a file of random content below `documentRoot`. Its content depends on the seed alone, and its time of change is always the same,
    /// so that servers on both hosts give it the same validators.
    public func makeFile(_ name: String, bytes: UInt64, seed: UInt64 = 1) throws(LabError) -> SharedFile {
        try makeFolder(documentRoot)
        chmod(folder, 0o755)
        chmod(documentRoot, 0o755)
        let path = "\(documentRoot)/\(name)"
        let fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard fd >= 0 else { throw .errno("cannot make \(path)", errno) }
        defer { close(fd) }
        var chunk = [UInt8](repeating: 0, count: 1 << 20)
        var done: UInt64 = 0
        while done < bytes {
            let count = Int(min(UInt64(chunk.count), bytes - done))
            csupport_content(seed, done, &chunk, count)
            guard write(fd, chunk, count) == count else { throw .errno("cannot write \(path)", errno) }
            done += UInt64(count)
        }
        var times = [timespec(tv_sec: 1_700_000_000, tv_nsec: 0), timespec(tv_sec: 1_700_000_000, tv_nsec: 0)]
        futimens(fd, &times)
        return SharedFile(name: name, path: path, bytes: bytes, seed: seed, sha256: try sha256(path))
    }

    /// The SHA-256 digest of a file in hexadecimal.
    public func sha256(_ path: String) throws(LabError) -> String {
        String(try check(in: nil, ["sha256sum", "--", path], timeout: .seconds(60)).prefix { $0 != " " })
    }
}
