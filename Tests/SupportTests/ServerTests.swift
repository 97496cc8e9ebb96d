// The servers that the end-to-end tests stand on.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct ServerTests {
    @Test func `curl gets the same file from nginx on either host`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let file = try lab.makeFile("big", bytes: 20_000_000)
        var options = NginxOptions()
        options.workers = 2
        let servers = [try Nginx(lab, on: .a, options), try Nginx(lab, on: .b, options)]
        for server in servers {
            #expect(server.workerPIDs.count == 2)
            try lab.routeService(to: server.host)
            for family in Family.allCases {
                let saved = lab.folder + "/saved"
                let head = try lab.check(in: .client, ["curl", "-sS", "-D", "-", "-o", saved, server.url("big", family)])
                #expect(head.contains("ETag: \"6553f100-1312d00\""))
                #expect(try lab.sha256(saved) == file.sha256)
            }
            #expect(eventually(within: .seconds(1)) { server.accessLog.count == 2 })
            #expect(server.accessLog.first?.hasPrefix("10.78.0.2 ") == true)
        }
        for server in servers { server.stop() }
        #expect(!lab.waitUntilAccepting(.a, lab.serviceAddress(.ipv4), 80, timeout: .milliseconds(20)))
    }

    @Test func `ssh runs a command on b without questions`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let sshd = try Sshd(lab, on: .b)
        let command = ["ssh", "-F", sshd.configPath, sshd.target, "cat; ip -br address show eth0"]
        let output = try lab.run(in: .a, command, stdin: .text("sent\n"))
        #expect(output.status == 0, "\(output.stderr)")
        #expect(output.stdout.hasPrefix("sent\n"))
        #expect(output.stdout.contains("10.77.0.12/24"))
        #expect(output.stderr == "")
    }
}
