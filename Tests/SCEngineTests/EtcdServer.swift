// An etcd of the test's own: its own port, its own folder, its end by its pid.

import Glibc
import SCEngine
import Support
import Testing

final class EtcdServer {
    let folder: String
    let port: Int
    private(set) var pid: Int32 = 0

    init() throws {
        // In memory: on a busy disk one fsync of etcd can take longer than a fence waits.
        let base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"
        var template = Array("\(base)/sc-etcd-XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        port = 20000 + Int(getpid() % 5000) * 2 + Int.random(in: 0..<5000) * 2
        try start()
    }

    func start() throws {
        let (client, peer) = ("http://127.0.0.1:\(port)", "http://127.0.0.1:\(port + 1)")
        pid = try spawn(
            [
                "etcd", "--name", "t", "--data-dir", folder + "/data", "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "t=\(peer)", "--logger", "zap",
            ], environment: nil, in: nil, standard: (-1, -1, -1), passing: [], listenPID: false)
        let isUp = eventually(within: .seconds(15), every: .milliseconds(50)) {
            let answer = try? runCommand(["curl", "-s", "--max-time", "1", "\(client)/health"])
            return answer?.output.contains("\"true\"") ?? false
        }
        try #require(isUp, "etcd does not answer on port \(port)")
    }

    func kill(_ signal: Int32 = SIGKILL) {
        guard pid > 0 else { return }
        Glibc.kill(pid, signal)
        if signal == SIGKILL { waitpid(pid, nil, 0); pid = 0 }
    }

    deinit {
        kill()
        _ = try? runCommand(["rm", "-rf", folder])
    }

    var address: EtcdAddress { get throws { try EtcdAddress("etcd://127.0.0.1:\(port)/sc") } }

    func fence(limit: Int = 2000, lifetime: Int = 30) throws -> EtcdFence { try EtcdFence(address, limit: limit, lifetime: lifetime) }

    /// The owner of a record, read by curl and not by what is tested; nil: no record.
    func owner(_ key: String) throws -> String? {
        let script = """
            import base64, json, sys, urllib.request
            body = json.dumps({"key": base64.b64encode(sys.argv[2].encode()).decode()}).encode()
            answer = json.load(urllib.request.urlopen("http://127.0.0.1:%s/v3/kv/range" % sys.argv[1], body, 5))
            pairs = answer.get("kvs", [])
            print(json.loads(base64.b64decode(pairs[0]["value"]))["owner"] + (" leased" if pairs[0].get("lease", "0") != "0" else "") if pairs else "")
            """
        let result = try runCommand(["/usr/bin/python3", "-c", script, String(port), "sc/" + key])
        try #require(result.status == 0, "\(result.errors)")
        let text = result.output.split(separator: "\n").first.map(String.init) ?? ""
        return text.isEmpty ? nil : text
    }
}
