// The text of the rules and the device pair that hold and pass on a flow's packets; loaded once, before anything is frozen.

/// One table for each pair of devices: packets arrive on `ingress`, and leave for the target on `egress`. Only set elements change afterwards.
struct LinkRules: Equatable {
    /// Where the client's packets arrive.
    let ingress: String
    /// Where packets leave for the target.
    let egress: String
    /// Where this host answers the client: the same device, unless the packets come out of a tunnel.
    let answers: String

    init(ingress: String, egress: String, answers: String? = nil) {
        (self.ingress, self.egress, self.answers) = (ingress, egress, answers ?? ingress)
    }

    /// From a table's name; nil when it is not this tool's.
    init?(table: some StringProtocol) {
        guard table.hasPrefix(Self.prefix) else { return nil }
        let devices = table.dropFirst(Self.prefix.count).split(separator: Self.separator)
        guard devices.count == 2 || devices.count == 3 else { return nil }
        self.init(ingress: String(devices[0]), egress: String(devices[1]), answers: devices.count == 3 ? String(devices[2]) : nil)
    }

    private static let prefix = "sc_checkpoint_"
    /// nft accepts a slash in a name, and no device has one in its own (dev_valid_name).
    private static let separator: Character = "/"
    var table: String {
        let name = "\(Self.prefix)\(ingress)\(Self.separator)\(egress)"
        return answers == ingress ? name : "\(name)\(Self.separator)\(answers)"
    }

    /// The names of the sets and maps, without the family's digit.
    static let sets = ["mute", "hold", "relay", "fwd"]

    /// The private pair: what is sent to `schold0` waits in the queue of an unresolved neighbour; resolving it sends all of it, in order, to `schold1`.
    static let holdDevice = "schold0"
    static let arrivalDevice = "schold1"
    static let holdMAC: [UInt8] = [0x02, 0x77, 0xaa, 0, 0, 1]
    static let holdIPv4 = "169.254.77.2"
    static let holdIPv6 = "fe80::77"

    static let devices = """
        link add \(holdDevice) address 02:77:aa:00:00:00 type veth peer name \(arrivalDevice) address 02:77:aa:00:00:01
        link set \(holdDevice) up
        link set \(arrivalDevice) up
        address add 169.254.77.1/32 dev \(arrivalDevice)

        """

    /// The larger of a device's rp_filter and that for all counts, so loose (2) is what a strict host lets through; it wants an address on the device.
    /// Room for what a fast client sends in a long blackout, and enough solicitations that the kernel does not give up on the neighbour meanwhile.
    static let sysctls = [
        ("net/ipv4/conf/\(arrivalDevice)/rp_filter", "2"), ("net/ipv4/conf/\(holdDevice)/arp_ignore", "8"),
        ("net/ipv4/conf/\(arrivalDevice)/arp_ignore", "8"), ("net/ipv4/neigh/\(holdDevice)/unres_qlen_bytes", "16777216"),
        ("net/ipv4/neigh/\(holdDevice)/mcast_solicit", "60"), ("net/ipv6/neigh/\(holdDevice)/unres_qlen_bytes", "16777216"),
        ("net/ipv6/neigh/\(holdDevice)/mcast_solicit", "60"), ("net/ipv6/conf/\(holdDevice)/accept_dad", "0"),
        ("net/ipv6/conf/\(arrivalDevice)/accept_dad", "0"),
    ]

    /// `fwd` sends on to the target, `hold` parks, `relay` passes on what comes out of the parking, `mute` silences this host's answers.
    /// The drop after the hold closes the gap when the hold device was made anew under a loaded rule (a dead interface index falls through).
    var text: String {
        """
        table netdev \(table) {
          set mute4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; }
          set mute6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; }
          set hold4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; }
          set hold6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; }
          map fwd4 { type ipv4_addr . inet_service . ipv4_addr . inet_service : ipv4_addr; }
          map fwd6 { type ipv6_addr . inet_service . ipv6_addr . inet_service : ipv6_addr; }
          map relay4 { type ipv4_addr . inet_service . ipv4_addr . inet_service : ipv4_addr; }
          map relay6 { type ipv6_addr . inet_service . ipv6_addr . inet_service : ipv6_addr; }
          chain in { type filter hook ingress device "\(ingress)" priority -500; policy accept;
            fwd ip to ip saddr . tcp sport . ip daddr . tcp dport map @fwd4 device "\(egress)"
            fwd ip6 to ip6 saddr . tcp sport . ip6 daddr . tcp dport map @fwd6 device "\(egress)"
            ip saddr . tcp sport . ip daddr . tcp dport @hold4 fwd ip to \(Self.holdIPv4) device "\(Self.holdDevice)"
            ip6 saddr . tcp sport . ip6 daddr . tcp dport @hold6 fwd ip6 to \(Self.holdIPv6) device "\(Self.holdDevice)"
            ip saddr . tcp sport . ip daddr . tcp dport @hold4 drop
            ip6 saddr . tcp sport . ip6 daddr . tcp dport @hold6 drop
          }
          chain held { type filter hook ingress device "\(Self.arrivalDevice)" priority -500; policy accept;
            fwd ip to ip saddr . tcp sport . ip daddr . tcp dport map @relay4 device "\(egress)"
            fwd ip6 to ip6 saddr . tcp sport . ip6 daddr . tcp dport map @relay6 device "\(egress)"
          }
          chain out { type filter hook egress device "\(answers)" priority -500; policy accept;
            ip daddr . tcp dport . ip saddr . tcp sport @mute4 drop
            ip6 daddr . tcp dport . ip6 saddr . tcp sport @mute6 drop
          }
        }

        """
    }
}
