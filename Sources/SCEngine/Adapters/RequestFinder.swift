// Finds the requests that a server process is answering, without its help: their heads still stand in its memory.

import CProc
import Glibc

/// The heads of GET requests in the writable private memory of a process. A server keeps the head of a request while it answers it; heads of earlier
/// requests may stand there too, so a finding is a candidate that has to be proved (`HTTPAdapter.learn`).
func requestCandidates(in process: TargetProcess) throws(CheckpointError) -> [HTTPRequest] {
    let memory = open("/proc/\(process.pid)/mem", O_RDONLY | O_CLOEXEC)
    guard memory >= 0 else {
        throw CheckpointError(
            "cannot look for the request in process \(process.pid) (\(process.command))", result: Int(-errno),
            advice: "It needs CAP_SYS_PTRACE; or name the request with --option target=/PATH --option host=NAME")
    }
    defer { close(memory) }
    var found: Set<HTTPRequest> = []
    var window = [UInt8](repeating: 0, count: 1 << 20)
    for (start, end) in writablePrivateRegions(of: process) {
        var address = start
        while address < end {
            let count = pread(memory, &window, min(window.count, Int(end - address)), off_t(address))
            if count <= 0 { break }
            collect(window[..<count], into: &found)
            if count < window.count { break }
            // A head may cross the end of a window.
            address += UInt64(count - 16384)
        }
    }
    return Array(found)
}

private func collect(_ bytes: ArraySlice<UInt8>, into found: inout Set<HTTPRequest>) {
    var position = bytes.startIndex
    let marker = Array("GET /".utf8)
    bytes.withUnsafeBytes { base in
        while position < bytes.endIndex {
            let hit = cproc_find(base.baseAddress! + position, base.count - position, marker, marker.count)
            if hit < 0 { return }
            let index = position + Int(hit)
            if let request = HTTPRequest(head: base[index..<min(index + 16384, base.count)]) { found.insert(request) }
            position = index + marker.count
        }
    }
}

/// The private, writable regions of a process (its heap and anonymous memory), at most 256 MiB of them.
private func writablePrivateRegions(of process: TargetProcess) -> [(UInt64, UInt64)] {
    var regions: [(UInt64, UInt64)] = []
    var total: UInt64 = 0
    for line in (readText("/proc/\(process.pid)/maps") ?? "").split(separator: "\n") {
        let words = line.split(separator: " ", omittingEmptySubsequences: true)
        guard words.count >= 5, words[1] == "rw-p" else { continue }
        let ends = words[0].split(separator: "-").compactMap { UInt64($0, radix: 16) }
        guard ends.count == 2, total + (ends[1] - ends[0]) <= 256 << 20 else { continue }
        total += ends[1] - ends[0]
        regions.append((ends[0], ends[1]))
    }
    return regions
}
