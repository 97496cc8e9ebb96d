// What a tool may leave behind on the machines of a lab, compared before and after: rules, links, files, marks on sockets, stopped processes.

internal import CSupport
internal import Glibc

/// The state of some namespaces and files at one instant.
public struct Leftovers: Sendable {
    private let lab: Lab
    private let hosts: [Lab.Host]
    private let files: [String]
    private let before: [String: Int]

    /// Where the tool keeps files outside a lab: a name at the end of a path stands for all names that begin with it.
    public static let usualFiles = ["/tmp/sc-checkpoint", "/run/sc-checkpoint", "/run/sc-checkpoint/", "/dev/shm/sc-checkpoint"]

    /// Remembers the state as it is now. Files are compared by name, with all that is below a path that ends in a slash.
    public static func snapshot(
        of lab: Lab, hosts: [Lab.Host] = Lab.Host.allCases, files: [String] = usualFiles
    ) throws(LabError) -> Leftovers {
        Leftovers(lab: lab, hosts: hosts, files: files, before: try facts(lab, hosts, files))
    }

    /// What is there now and was not, as `a: table inet sc`, or what was there and is gone, as `a: gone: …`. Empty is clean.
    public func check() throws(LabError) -> [String] {
        let now = try Leftovers.facts(lab, hosts, files)
        let added = now.filter { $0.value > before[$0.key, default: 0] }.keys.sorted()
        let gone = before.filter { $0.key.wasPermanent && $0.value > now[$0.key, default: 0] }.keys.sorted()
        return added + gone.map { "gone: \($0)" }
    }

    /// Like `check()`, but gives what ends by itself (a child that is still exiting) some time.
    public func check(within timeout: Duration) throws(LabError) -> [String] {
        let deadline = ContinuousClock.now + timeout
        while true {
            let found = try check()
            if found.isEmpty || ContinuousClock.now >= deadline { return found }
            usleep(20_000)
        }
    }

    /// Every fact with how often it holds.
    private static func facts(_ lab: Lab, _ hosts: [Lab.Host], _ files: [String]) throws(LabError) -> [String: Int] {
        var all: [String] = []
        for host in hosts {
            let facts = try network(lab, host) + sysctls(lab, host) + processes(lab, host)
            all += facts.map { "\(host.rawValue): \($0)" }
        }
        all += files.flatMap(names).map { "file \($0)" }
        return all.reduce(into: [:]) { $0[$1, default: 0] += 1 }
    }

    /// nft rules, policy rules, routes, links, traffic control and permanent neighbours, one line each.
    private static func network(_ lab: Lab, _ host: Lab.Host) throws(LabError) -> [String] {
        let script = """
            nft -s list ruleset | sed -n 's/^[ \\t]*//; /^}$/d; /./s/^/nft: /p'
            for family in -4 -6; do
                ip $family rule | sed 's/^/rule: /'
                ip $family route show table all | sed 's/ expires [0-9]*sec//; s/^/route: /'
                ip $family neigh show nud permanent | sed 's/^/neighbour: /'
            done
            ip -o link | sed 's/^[0-9]*: \\([^:@]*\\).*\\(xdp[a-z]*\\).*/link: \\1 with \\2/; t; s/^[0-9]*: \\([^:@]*\\).*/link: \\1/'
            tc qdisc show | grep -v -e noqueue -e fq_codel -e pfifo_fast -e 'qdisc mq' | sed 's/^/tc: /'
            exit 0
            """
        return try lab.check(in: host, ["sh", "-c", script]).split(separator: "\n").map(String.init)
    }

    /// Settings that steering is tempted to change.
    private static func sysctls(_ lab: Lab, _ host: Lab.Host) -> [String] {
        let paths = [
            "ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/rp_filter", "ipv4/conf/eth0/rp_filter",
            "ipv4/conf/all/accept_local", "ipv4/conf/all/send_redirects", "ipv4/conf/all/arp_ignore", "ipv4/conf/all/arp_announce",
            "ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind", "ipv4/tcp_fwmark_accept", "ipv4/tcp_wmem", "ipv4/tcp_rmem",
            "ipv4/tcp_timestamps", "ipv4/tcp_l3mdev_accept",
        ]
        return paths.compactMap { path in
            var value = [CChar](repeating: 0, count: 128)
            let length = csupport_read_sysctl(lab.handle(host), path, &value, value.count)
            guard length >= 0 else { return nil }
            return "setting: \(path) = \(String(decoding: value[..<Int(length)].map { UInt8(bitPattern: $0) }, as: UTF8.self))"
        }
    }

    /// Stopped processes, processes of the tool itself, and marked sockets of any process in the namespace.
    private static func processes(_ lab: Lab, _ host: Lab.Host) -> [String] {
        Lab.processes(in: lab.namespace(host)).flatMap { pid in
            let stat = readText("/proc/\(pid)/stat")
            guard let open = stat.firstIndex(of: "("), let close = stat.lastIndex(of: ")") else { return [String]() }
            let name = stat[stat.index(after: open)..<close]
            var facts: [String] = []
            if let state = stat[close...].split(separator: " ").dropFirst().first, state == "T" || state == "t" {
                facts.append("process \(pid) (\(name)) is stopped")
            }
            if name.hasPrefix("sc-checkpoint") { facts.append("process \(pid) (\(name)) still runs") }
            return facts + marks(pid).map { "process \(pid) (\(name)) \($0)" }
        }
    }

    private static func marks(_ pid: Int32) -> [String] {
        listFolder("/proc/\(pid)/fd").compactMap { Int32($0) }.flatMap { fd in
            let marks = csupport_socket_marks(pid, fd)
            guard marks > 0 else { return [String]() }
            let names = [
                (CSUPPORT_MARK_FILTER, "has a socket filter"), (CSUPPORT_MARK_LOCKED, "has a locked socket filter"),
                (CSUPPORT_MARK_REPAIR, "is in repair mode"),
            ]
            return names.filter { marks & $0.0 != 0 }.map { "descriptor \(fd) \($0.1)" }
        }
    }

    /// The paths that begin with `pattern`: the entries of a folder that have its last part as their start.
    private static func names(_ pattern: String) -> [String] {
        let slash = pattern.lastIndex(of: "/") ?? pattern.startIndex
        let folder = String(pattern[..<slash])
        let start = pattern[slash...].dropFirst()
        return listFolder(folder).filter { $0.hasPrefix(start) }.map { "\(folder)/\($0)" }
    }
}

extension String {
    /// Facts whose end is a fault of the tool as well. Processes end by themselves, files are cleaned up.
    fileprivate var wasPermanent: Bool {
        ["nft: ", "rule: ", "route: ", "link: ", "setting: ", "tc: "].contains { self.contains(": " + $0) }
    }
}
