// `steer-router`: what `migrate --steer router:WHERE` runs on the router. Nobody types it, so the help does not list it.

import ArgumentParser
import Glibc
import SCEngine

struct SteerRouter: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "A router's part of a migrate, on standard input and output (as ssh starts it), or listening on a Unix socket.",
        discussion: "EXAMPLE\n  sc-checkpoint steer-router --listen /run/router.sock", shouldDisplay: false)

    @Option(name: .long, help: ArgumentHelp("Wait on this Unix socket (mode 0600) for moves, one after the other.", valueName: "PATH"))
    var listen: String?

    func run() throws {
        guard let listen else { return try RouterService(input: 0, output: 1).run() }
        let listener = try Listener(listen)
        listener.endOnSignal()
        Terminal.note("listening on \(listen)")
        while true {
            let connection = try listener.accept()
            try RouterService(input: connection.raw, output: connection.raw).run()
        }
    }
}
