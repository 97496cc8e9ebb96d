// sc-lab: a lasting lab of network namespaces for trying sc-checkpoint by hand (`make lab`, `make lab-down`).

import Glibc
import Support

@main struct SCLab {
    static let prefix = "sclab"

    static let usage = """
        usage: sc-lab up                                  build the lab and say how to use it
               sc-lab down                                remove it with everything that runs in it
               sc-lab shell client|router|a|b [COMMAND]   a shell, or a command, on one of its machines
               sc-lab hold                                a lab with a name of its own, removed when this command ends
               sc-lab status                              the labs on this machine
               sc-lab sweep                               remove the labs of tests that were killed
        Example: sc-lab up && sc-lab shell client curl -s http://10.77.0.100/

        """

    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        do {
            switch (arguments.first, arguments.count) {
            case ("up", 1): try up()
            case ("down", 1): down()
            case ("hold", 1): try hold()
            case ("status", 1): for name in Lab.existing() { print(name) }
            case ("sweep", 1): for name in Lab.sweep() { print("removed \(name)") }
            case ("shell", 2...): try shell(arguments[1], Array(arguments.dropFirst(2)))
            case ("help", _), ("--help", _), ("-h", _): print(usage, terminator: "")
            default:
                complain(usage)
                exit(2)
            }
        } catch {
            complain("sc-lab: \(error)\n")
            exit(1)
        }
    }

    static func up() throws(LabError) {
        if Lab.existing().contains(prefix) { throw LabError("the lab is up already; `sc-lab down` removes it") }
        let lab = try Lab.makeLasting(prefix: prefix)
        let service = lab.serviceAddress(.ipv4)
        print(
            """
            client ──── router ──┬── a     the service address \(service) (\(lab.serviceAddress(.ipv6))) is on a and on b;
                                 └── b     the router sends it to a

            """)
        for host in Lab.Host.allCases {
            let name = lab.namespace(host)
            print("  \(host.rawValue)\(spaces(7 - host.rawValue.count)) \(name)\(spaces(13 - name.count)) ", terminator: "")
            print("\(lab.address(host, .ipv4))\(spaces(11 - lab.address(host, .ipv4).count)) \(lab.address(host, .ipv6))")
        }
        print(
            """

            a command on a machine    sc-lab shell a nginx
                                      ip netns exec \(lab.namespace(.client)) curl -O http://\(service)/FILE
            route the service to b    ip -n \(lab.namespace(.router)) route replace \(service) via \(lab.address(.b, .ipv4))
            remove it all             sc-lab down
            """)
    }

    /// Prints the lab's prefix and waits for the end of the standard input; whatever ends the process ends the lab.
    static func hold() throws(LabError) {
        let lab = try Lab()
        let line = Array((lab.prefix + "\n").utf8)
        _ = write(1, line, line.count)
        var byte: UInt8 = 0
        while read(0, &byte, 1) > 0 {}
        lab.down()
    }

    static func down() {
        guard Lab.existing().contains(prefix) else { return print("there is no lab") }
        Lab.remove(prefix: prefix)
        print("removed \(prefix)")
    }

    /// Becomes the command inside the namespace.
    static func shell(_ host: String, _ command: [String]) throws(LabError) {
        guard Lab.Host(rawValue: host) != nil else { throw LabError("there is no machine \(host): client, router, a or b") }
        guard Lab.existing().contains(prefix) else { throw LabError("there is no lab; `sc-lab up` builds it") }
        let shell = getenv("SHELL").map { String(cString: $0) } ?? "/bin/sh"
        let arguments = ["nsenter", "--net=/run/netns/\(prefix)-\(host)", "--"] + (command.isEmpty ? [shell] : command)
        execvp(arguments[0], arguments.map { strdup($0) } + [nil])
        throw LabError("cannot run nsenter: \(String(cString: strerror(errno)))")
    }

    private static func spaces(_ count: Int) -> String { String(repeating: " ", count: max(0, count)) }

    private static func complain(_ text: String) {
        let bytes = Array(text.utf8)
        _ = write(2, bytes, bytes.count)
    }
}
