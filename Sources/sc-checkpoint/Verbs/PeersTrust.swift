// `peers trust`: joins two hosts, with one command on each.

import ArgumentParser
import Glibc
import SCAgent
import SCEngine

extension Peers {
    struct Trust: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Trusts a host by the fingerprint of its certificate.",
            discussion: """
                Without --fingerprint the host is asked for its certificate, and you are asked whether the fingerprint is right: compare it with
                "sc-checkpoint peers identity" there. The command for the other host is printed at the end.

                EXAMPLE
                  sc-checkpoint peers trust hostb hostb.example.org:7443
                  sc-checkpoint peers trust hostb 192.0.2.11:7443 --fingerprint sha256:6f1c…
                """)

        @Argument(help: "The name to know it by.") var name: String
        @Argument(help: ArgumentHelp("Where its agent listens.", valueName: "HOST:PORT")) var address: String
        @Option(name: .long, help: ArgumentHelp("The fingerprint of its certificate.", valueName: "sha256:HEX")) var fingerprint: String?
        @Flag(name: .long, help: "Believe the fingerprint that the host shows.") var yes = false
        @Option(name: .long, help: ArgumentHelp("Milliseconds to wait for the host.", valueName: "MS")) var timeout = 5000
        @Flag(name: .long, help: "One JSON document.") var json = false

        private struct Document: Encodable {
            var name, address, fingerprint: String
            var valid_until: String?
            var own_fingerprint: String
            var command_for_the_other_host: String
        }

        func run() throws {
            let store = try PeerStore()
            let own = try store.identity
            let peer = try fingerprint.map { try given($0) } ?? ask(store)
            try store.trust(peer)
            let port = HostPort(address)?.port ?? 0
            let host = hostName()
            let command = "sc-checkpoint peers trust \(Peer.isName(host) ? host : "NAME") \(host):\(port) --fingerprint \(own.fingerprint)"
            if json {
                return Terminal.json(
                    Document(
                        name: peer.name, address: peer.address, fingerprint: peer.fingerprint.description,
                        valid_until: peer.validUntil.map(timestamp), own_fingerprint: own.fingerprint.description,
                        command_for_the_other_host: command))
            }
            Terminal.print("\(peer.name) at \(peer.address) is trusted: \(peer.fingerprint)")
            Terminal.print("this host:  \(own.fingerprint)")
            Terminal.print("on \(peer.name), if its agent does not trust this host yet (put in the address and port of the agent here):")
            Terminal.print("  \(command)")
        }

        private func given(_ text: String) throws -> Peer {
            guard let fingerprint = Fingerprint(text) else {
                throw CheckpointError(
                    "--fingerprint \(text) is malformed", why: "sha256: and 64 hexadecimal digits are expected", errno: EINVAL,
                    advice: "Copy it from sc-checkpoint peers identity on that host", outcome: .usage)
            }
            return Peer(name: name, address: address, fingerprint: fingerprint)
        }

        private func ask(_ store: PeerStore) throws -> Peer {
            let isTerminal = isatty(0) == 1 && isatty(2) == 1
            guard yes || isTerminal else {
                throw CheckpointError(
                    "the fingerprint of \(name) is not known", why: "there is no terminal to ask on", errno: EINVAL,
                    advice: "Add --fingerprint sha256:… (sc-checkpoint peers identity on that host shows it), or --yes to believe what it shows",
                    outcome: .usage)
            }
            let shown = try probePeer(address, store: store, timeout: timeout)
            if !yes {
                Terminal.write(
                    "\(address) shows \(shown.fingerprint), valid until \(timestamp(shown.validUntil)).\nIs that what sc-checkpoint peers identity shows there? [y/N] ",
                    to: 2)
                let answer = readLine()?.lowercased()
                guard answer == "y" || answer == "yes" else {
                    throw CheckpointError("\(name) is not trusted", why: "you did not say yes", errno: ECANCELED)
                }
            }
            return Peer(name: name, address: address, fingerprint: shown.fingerprint, validUntil: shown.validUntil)
        }

        private func hostName() -> String {
            var name = [CChar](repeating: 0, count: 256)
            gethostname(&name, 255)
            return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }
    }
}
