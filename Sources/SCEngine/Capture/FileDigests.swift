// SHA-256 of files that are part of a session: computed while it runs, as a large file takes longer than a blackout may.

import CProc
import Glibc
import SCImage

/// Digests by what the file was when they were computed; a file that has changed since has none.
package final class FileDigests {
    private struct Key: Hashable {
        var device, inode, size: UInt64
        var modified: Int64

        init(_ stat: cproc_stat) { (device, inode, size, modified) = (stat.device, stat.inode, stat.size, stat.mtime_ns) }
    }

    private var digests: [Key: [UInt8]] = [:]

    package init() {}

    func known(_ stat: cproc_stat) -> [UInt8]? { digests[Key(stat)] }

    /// The digest of an open file, from its beginning; its position does not move.
    package func digest(of raw: Int32) throws(CheckpointError) -> [UInt8] {
        var before = cproc_stat()
        try check(cproc_fstat(raw, &before), "cannot look at a file")
        if let known = known(before) { return known }
        var chunk = [UInt8](repeating: 0, count: 1 << 20)
        do throws(ImageError) {
            var stream = try SHA256Stream()
            var offset = 0
            while true {
                let count = pread(raw, &chunk, chunk.count, off_t(offset))
                if count < 0 { throw .io(errno: errno, operation: "reading a file") }
                if count == 0 { break }
                try stream.update(Array(chunk[..<count]))
                offset += count
            }
            let digest = try stream.finish()
            var after = cproc_stat()
            if cproc_fstat(raw, &after) >= 0, Key(after) == Key(before) { digests[Key(before)] = digest }
            return digest
        } catch {
            throw CheckpointError("cannot compute the digest of a file", why: error.description, errno: EIO)
        }
    }
}
