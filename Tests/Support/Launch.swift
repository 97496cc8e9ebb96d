// The one place where the test support starts a process, if need be inside a network namespace.

internal import CSupport
internal import Glibc

/// What a process is to be started with.
struct Launch {
    var command: [String]
    /// A borrowed descriptor of the network namespace, or the caller's own.
    var namespace: Int32?
    /// Added to the caller's environment.
    var environment: [String: String] = [:]
    /// The standard streams as borrowed descriptors; nil is /dev/null.
    var standardInput: Int32?
    var standardOutput: Int32?
    var standardError: Int32?
    /// Borrowed descriptors that become 3, 4, … and are announced as `LISTEN_FDS`.
    var passing: [Int32] = []
    /// Starts a session of its own, out of reach of the terminal's signals.
    var ownSession = false
}

/// Starts the process and returns its pid. It is a child of the caller, who has to wait for it.
func launch(_ launch: Launch) throws(LabError) -> pid_t {
    var environment = launch.environment
    if !launch.passing.isEmpty { environment["LISTEN_FDS"] = String(launch.passing.count) }
    let streams = [launch.standardInput, launch.standardOutput, launch.standardError].map { $0 ?? -1 }
    let descriptors = streams + launch.passing
    let pid = withCStrings(launch.command) { arguments in
        withCStrings(merged(environment)) { variables in
            csupport_spawn(
                arguments, variables, launch.namespace ?? -1, descriptors, Int32(descriptors.count),
                launch.ownSession ? 1 : 0)
        }
    }
    guard pid > 0 else { throw .errno("cannot start \(launch.command.joined(separator: " "))", pid) }
    return pid
}

/// Runs `body` with the strings as a NULL-terminated array of C strings.
private func withCStrings<R>(_ strings: [String], _ body: ([UnsafePointer<CChar>?]) -> R) -> R {
    let copies = strings.map { strdup($0) }
    defer { for copy in copies { free(copy) } }
    return body(copies.map { UnsafePointer($0) } + [nil])
}

/// The caller's environment as `NAME=value` with these variables replaced or added.
private func merged(_ changes: [String: String]) -> [String] {
    var result = changes.map { "\($0)=\($1)" }
    var next = environ
    while let entry = next.pointee {
        let variable = String(cString: entry)
        if changes[String(variable.prefix { $0 != "=" })] == nil { result.append(variable) }
        next += 1
    }
    return result
}
