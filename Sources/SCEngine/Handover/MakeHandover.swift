// From the words of an offer or a command line to a hand-over driver.

import Glibc
import SCImage

/// The driver for a hand-over, and the namespace in which the sessions will live.
package func makeHandover(
    _ handover: Handover, output: Int32, deadline: Int, acceptorUser: UInt32? = nil
) throws(CheckpointError) -> (any HandoverDriver, NetworkNamespace) {
    switch handover {
    case .exec(let arguments):
        let namespace = try NetworkNamespace.current()
        let command = arguments.map { String(decoding: $0, as: UTF8.self) }
        return (ExecHandover(command, mode: .detached(output: output), in: namespace), namespace)
    case .into(let path):
        let namespace = try NetworkNamespace.current()
        return (
            AcceptorHandover(path: String(decoding: path, as: UTF8.self), in: namespace, deadline: max(1000, deadline), user: acceptorUser), namespace
        )
    case .service(let name):
        throw CheckpointError(
            "\(hostName()) cannot receive for service \(name)", why: "no policy says who serves it here", errno: ENOENT,
            advice: "Name the receiver: --exec, --into or --onto")
    case .onto(let pid, let adapter, _):
        return (try TransplantHandover(pid: pid, adapter: adapter), try NetworkNamespace.of(pid: pid))
    }
}
