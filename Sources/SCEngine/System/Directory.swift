// Directories: the names in one, and those in which this tool keeps its files.

import CProc
import Glibc

/// The names in a directory without `.` and `..`, in the kernel's order; nil, with errno, when it cannot be read.
package func entryNames(of path: String) -> [String]? {
    guard let directory = opendir(path) else { return nil }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) { $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) } }
        if name != ".", name != ".." { names.append(name) }
    }
    return names
}

/// The inode of an open file; nil when the descriptor is none.
package func inode(of descriptor: Int32) -> UInt64? {
    var stat = cproc_stat()
    return cproc_fstat(descriptor, &stat) >= 0 ? stat.inode : nil
}

/// Seconds since a file was last written; 0 when it is not there, or after a jump of the clock into the past.
package func fileAge(_ path: String) -> Int {
    var status = stat()
    return stat(path, &status) == 0 ? max(0, time(nil) - status.st_mtim.tv_sec) : 0
}
