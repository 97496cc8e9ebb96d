// Small file helpers of the test support, without Foundation.

internal import FoundationEssentials
internal import Glibc

/// Why the lab, or something in it, did not work.
public struct LabError: Error, CustomStringConvertible {
    public let description: String

    public init(_ description: String) {
        self.description = description
    }

    /// `what: WHY` for a negative errno as the C functions return it.
    static func errno(_ what: String, _ result: Int32) -> LabError {
        LabError("\(what): \(String(cString: strerror(abs(result))))")
    }
}

/// The whole file as bytes; empty when it cannot be read (as for a process that has just ended).
public func readBytes(_ path: String) -> [UInt8] {
    let fd = open(path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return [] }
    defer { close(fd) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65536)
    while true {
        let count = read(fd, &chunk, chunk.count)
        guard count > 0 else { return bytes }
        bytes.append(contentsOf: chunk[..<count])
    }
}

/// The whole file as text; empty when it cannot be read.
public func readText(_ path: String) -> String {
    String(decoding: readBytes(path), as: UTF8.self)
}

/// Writes a file in one go, with these permissions.
public func writeFile(_ path: String, _ bytes: [UInt8], mode: UInt32 = 0o600) throws(LabError) {
    let fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
    guard fd >= 0 else { throw .errno("cannot write \(path)", errno) }
    defer { close(fd) }
    var done = 0
    while done < bytes.count {
        let count = bytes.withUnsafeBytes { write(fd, $0.baseAddress! + done, $0.count - done) }
        guard count > 0 else { throw .errno("cannot write \(path)", errno) }
        done += count
    }
}

/// Writes a file in one go, with these permissions.
public func writeFile(_ path: String, _ text: String, mode: UInt32 = 0o600) throws(LabError) {
    try writeFile(path, Array(text.utf8), mode: mode)
}

/// The names in a folder, sorted; none when it does not exist.
public func listFolder(_ path: String) -> [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
}

/// Makes a folder and those above it.
func makeFolder(_ path: String) throws(LabError) {
    do {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    } catch {
        throw LabError("cannot make \(path): \(error)")
    }
}

/// Removes a file or a folder with all that is in it; nothing there is fine.
func removeTree(_ path: String) {
    try? FileManager.default.removeItem(atPath: path)
}

/// Tries `condition` every `interval` until it holds; false when the time is over.
public func eventually(within timeout: Duration, every interval: Duration = .milliseconds(5), _ condition: () -> Bool) -> Bool {
    let deadline = ContinuousClock.now + timeout
    while true {
        if condition() { return true }
        if ContinuousClock.now >= deadline { return false }
        usleep(UInt32(interval.components.attoseconds / 1_000_000_000_000))
    }
}
