// What systemd and the agent tell each other: readiness, and descriptors kept across a restart (sd_notify(3), sd_listen_fds(3)).

import CProc
import Glibc
import SCEngine

/// The service manager's socket, if there is one.
package enum ServiceManager {
    /// Sends lines such as `READY=1`; with a descriptor, `FDSTORE=1` and its name keep it across a restart of the service.
    package static func notify(_ text: String, descriptors: [Int32] = []) {
        guard let address = getenv("NOTIFY_SOCKET").map({ String(cString: $0) }), !address.isEmpty else { return }
        let raw = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard raw >= 0 else { return }
        defer { close(raw) }
        // An abstract address is written with @ in the place of its NUL.
        guard connectUnix(raw, address.hasPrefix("@") ? "\0" + address.dropFirst() : address) else { return }
        let bytes = Array(text.utf8)
        _ = cproc_send_fds(raw, bytes, bytes.count, descriptors, Int32(descriptors.count))
    }

    /// The descriptors that the manager has passed or kept, by name; taken over once.
    package static func takeDescriptors() -> [String: [SharedDescriptor]] {
        guard let pid = getenv("LISTEN_PID").flatMap({ Int32(String(cString: $0)) }), pid == getpid(),
            let count = getenv("LISTEN_FDS").flatMap({ Int32(String(cString: $0)) }), count > 0
        else { return [:] }
        let names = (getenv("LISTEN_FDNAMES").map { String(cString: $0) } ?? "").split(separator: ":", omittingEmptySubsequences: false).map(
            String.init)
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsetenv(name) }
        var result: [String: [SharedDescriptor]] = [:]
        for index in 0..<Int(count) {
            let fd = Int32(3 + index)
            _ = fcntl(fd, F_SETFD, FD_CLOEXEC)
            result[index < names.count ? names[index] : "", default: []].append(SharedDescriptor(fd))
        }
        return result
    }
}
