// `tls-end`: the process that terminates TLS; started by the program itself, never by a person.

import ArgumentParser
import SCAgent

struct TLSEnd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tls-end", abstract: "Ends the TLS of one peer and checks what it says.", shouldDisplay: false)

    func run() { Terminator.run() }
}
