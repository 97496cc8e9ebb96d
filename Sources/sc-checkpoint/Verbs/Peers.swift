// `peers`: which hosts are trusted, and who this one is.

import ArgumentParser
import Glibc
import SCAgent
import SCEngine

struct Peers: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Lists the hosts that may send and receive sessions over TLS; trusts and distrusts them.",
        discussion: """
            Two hosts that trust each other move sessions without ssh. Each knows the other by the fingerprint of its certificate.
            Key, certificate and peers are in /etc/sc-checkpoint (SC_CONFIG_DIR names another directory).

            EXAMPLE
              sc-checkpoint peers --json
              sc-checkpoint peers trust hostb hostb.example.org:7443
            """,
        subcommands: [List.self, Trust.self, Distrust.self, ShowIdentity.self], defaultSubcommand: List.self)

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Lists the trusted hosts.", discussion: "EXAMPLE\n  sc-checkpoint peers list")

        @Flag(name: .long, help: "One JSON document.") var json = false

        private struct Document: Encodable {
            struct Row: Encodable {
                var name, address, fingerprint: String
                var valid_until: String?
            }
            var peers: [Row]
        }

        func run() throws {
            let peers = try PeerStore().peers
            if json {
                return Terminal.json(
                    Document(
                        peers: peers.map {
                            .init(
                                name: $0.name, address: $0.address, fingerprint: $0.fingerprint.description, valid_until: $0.validUntil.map(timestamp)
                            )
                        }))
            }
            Terminal.table(
                ["NAME", "ADDRESS", "VALID UNTIL", "FINGERPRINT"],
                peers.map { [$0.name, $0.address, $0.validUntil.map(timestamp) ?? "unknown", $0.fingerprint.description] })
        }
    }

    struct Distrust: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Forgets a host: its next connection is refused.", discussion: "EXAMPLE\n  sc-checkpoint peers distrust hostb")

        @Argument(help: "The peer's name.") var name: String
        @Flag(name: .long, help: "One JSON document.") var json = false

        private struct Document: Encodable { var distrusted: String }

        func run() throws {
            try PeerStore().distrust(name: name)
            json ? Terminal.json(Document(distrusted: name)) : Terminal.print("\(name) is no longer trusted")
        }
    }

    struct ShowIdentity: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "identity", abstract: "Shows this host's own fingerprint; makes its key and certificate if they are missing.",
            discussion: "EXAMPLE\n  sc-checkpoint peers identity\n  sc-checkpoint peers identity --renew")

        @Flag(name: .long, help: "Make a new key and certificate. Every peer has to trust the new fingerprint.") var renew = false
        @Flag(name: .long, help: "One JSON document.") var json = false

        private struct Document: Encodable { var fingerprint, valid_from, valid_until, certificate, key: String }

        func run() throws {
            let store = try PeerStore()
            let identity = renew ? try store.renewIdentity() : try store.identity
            if json {
                return Terminal.json(
                    Document(
                        fingerprint: identity.fingerprint.description, valid_from: timestamp(identity.notBefore),
                        valid_until: timestamp(identity.notAfter), certificate: identity.certificatePath, key: identity.keyPath))
            }
            Terminal.print("fingerprint  \(identity.fingerprint)")
            Terminal.print("valid from   \(timestamp(identity.notBefore))")
            Terminal.print("valid until  \(timestamp(identity.notAfter))")
            Terminal.print("certificate  \(identity.certificatePath)")
            if renew { Terminal.note("every peer has to trust the new fingerprint: sc-checkpoint peers trust NAME HOST:PORT --fingerprint …") }
            try identity.checkValidity()
        }
    }
}
