// The performance table: the engine beside a bare C floor, in one run; and what a user sees of it.

import Glibc
import SCEngine

@main
struct Bench {
    static func main() {
        if CommandLine.arguments.dropFirst().first == "inside" {
            do { try benchSockets() } catch {
                print("sc-bench: \(error)")
                exit(1)
            }
            return
        }
        guard geteuid() == 0 else {
            print("sc-bench: run it as root; it makes network namespaces")
            exit(1)
        }
        // Some parts only: sc-bench sockets start blackout archive.
        let parts = CommandLine.arguments.dropFirst()
        func isWanted(_ part: String) -> Bool { parts.isEmpty || parts.contains(part) }
        do {
            var status: Int32 = 0
            if isWanted("sockets") {
                print(
                    "µs per session, medians of \(SocketBench.repetitions) repetitions of \(SocketBench.sessions) sessions; ratio to the C floor of the same repetition\n"
                )
                fflush(nil)
                // The sockets live in a namespace of their own. Between close and restore nobody owns their 4-tuples; the answer to a client's
                // retransmission, which a move holds back at the link, must not end the session here.
                let setUp = """
                    ip link set lo up && nft 'table inet bench { chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }; }' &&
                    exec "$0" inside
                    """
                let pid = try spawn(
                    ["unshare", "--net", "sh", "-c", setUp, CommandLine.arguments[0]], environment: nil, in: nil,
                    standard: (0, 1, 2), passing: [], listenPID: false)
                waitpid(pid, &status, 0)
            }
            if isWanted("start") { try benchStart() }
            if isWanted("blackout") { try benchBlackout() }
            if isWanted("archive") { try benchArchive() }
            exit(status == 0 ? 0 : 1)
        } catch {
            print("sc-bench: \(error)")
            exit(1)
        }
    }
}

/// Lower median, minimum and maximum.
struct Spread {
    let low, median, high: Double

    init(_ values: [Double]) {
        let sorted = values.sorted()
        (low, median, high) = (sorted[0], sorted[(sorted.count - 1) / 2], sorted[sorted.count - 1])
    }
}

/// Two decimals without Foundation.
func text(_ value: Double, width: Int = 8) -> String {
    let hundredths = Int((value * 100).rounded())
    let fraction = hundredths % 100
    let digits = "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)"
    return String(repeating: " ", count: max(0, width - digits.count)) + digits
}

func verdict(_ isMet: Bool) -> String { isMet ? "met" : "MISSED" }

func pad(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }
