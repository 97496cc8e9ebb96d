// Image files: whole or not there at all.

import Glibc

/// An image file being written. Until `commit()` it has a temporary name beside its destination, and it goes away with this value.
///
/// `-` is standard output. A character device, FIFO or socket that exists under the path is written directly, as nothing can
/// take its place; a symbolic link to a file stays, and the file is replaced.
package struct ImageFile: ~Copyable {
    /// All temporary files are named so, with random digits after it.
    package static let temporaryPrefix = ".sc-image-"

    private static let operation = "writing the image"
    private let fd: Int32
    /// `fd` is open and ours to close.
    private var isOpen: Bool
    /// The destination's directory and the names in it; nil when the destination is written directly.
    private var replacement: Replacement?

    private struct Replacement {
        var directory: Int32
        var temporary: String
        var name: String
    }

    /// Makes the temporary file, or opens what is written directly.
    package init(creating path: String) throws(ImageError) {
        switch try Self.destination(path) {
        case .standardOutput: (fd, isOpen, replacement) = (STDOUT_FILENO, false, nil)
        case .direct: (fd, isOpen, replacement) = (try check(unsafe open(path, O_WRONLY | O_CLOEXEC)), true, nil)
        case .file(let directory, let name):
            let directory = try check(unsafe open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
            let temporary = Self.temporaryPrefix + String(UInt64.random(in: 0 ... .max), radix: 16)
            let file = unsafe openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
            let error = errno
            guard file >= 0 else {
                close(directory)
                throw .io(errno: error, operation: Self.operation)
            }
            (fd, isOpen) = (file, true)
            replacement = Replacement(directory: directory, temporary: temporary, name: name)
        }
    }

    deinit {
        if isOpen { close(fd) }
        if let replacement {
            _ = unsafe unlinkat(replacement.directory, replacement.temporary, 0)
            close(replacement.directory)
        }
    }

    /// Where the image is to be written to.
    package var sink: DescriptorSink { DescriptorSink(fd, operation: Self.operation) }

    /// Makes what was written lasting and puts it into its place. Afterwards this value is used up.
    package mutating func commit() throws(ImageError) {
        if let replacement {
            try check(fsync(fd))
            try closeFile()
            try check(
                unsafe renameat(replacement.directory, replacement.temporary, replacement.directory, replacement.name))
            self.replacement = nil
            defer { close(replacement.directory) }
            try check(fsync(replacement.directory))
        } else {
            try closeFile()
        }
    }

    /// Writes a whole image file; whatever `body` throws, nothing stays behind.
    package static func write(
        _ path: String, body: (DescriptorSink) throws(ImageError) -> Void
    ) throws(ImageError) {
        var file = try ImageFile(creating: path)
        try body(file.sink)
        try file.commit()
    }

    /// Network file systems tell of a full disk only here.
    private mutating func closeFile() throws(ImageError) {
        guard isOpen else { return }
        isOpen = false
        try check(close(fd))
    }

    private enum Destination {
        case standardOutput
        case direct
        case file(directory: String, name: String)
    }

    private static func destination(_ path: String) throws(ImageError) -> Destination {
        guard path != "-" else { return .standardOutput }
        var path = path
        var status = stat()
        if unsafe stat(path, &status) == 0 {
            switch status.st_mode & S_IFMT {
            case S_IFREG: path = try resolved(path)
            case S_IFDIR: throw .io(errno: EISDIR, operation: operation)
            case S_IFBLK: throw .malformed(what: "\(path) is a block device, which an image would overwrite", offset: nil)
            default: return .direct
            }
        } else if errno != ENOENT {
            throw .io(errno: errno, operation: operation)
        }
        let cut = path.utf8.lastIndex(of: UInt8(ascii: "/"))
        let name = cut.map { String(path[path.utf8.index(after: $0)...]) } ?? path
        guard !name.isEmpty else { throw .io(errno: path.isEmpty ? ENOENT : EISDIR, operation: operation) }
        return .file(directory: cut.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? ".", name: name)
    }

    /// The path without symbolic links.
    private static func resolved(_ path: String) throws(ImageError) -> String {
        guard let resolved = unsafe realpath(path, nil) else { throw .io(errno: errno, operation: operation) }
        defer { unsafe free(resolved) }
        return unsafe String(cString: resolved)
    }
}

/// The result of a call that says -1 and errno.
@discardableResult
private func check(_ result: Int32) throws(ImageError) -> Int32 {
    guard result >= 0 else { throw .io(errno: errno, operation: "writing the image") }
    return result
}
