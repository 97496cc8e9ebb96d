// Key, certificate and peers on disk.

import Glibc
import SCAgent
import SCEngine
import Support
import Testing

struct IdentityTests {
    private func mode(_ path: String) -> mode_t {
        var status = stat()
        lstat(path, &status)
        return status.st_mode & 0o7777
    }

    @Test func `an identity is made once, for nobody else to read, and found again`() throws {
        let host = try Host()
        let made = try host.store.identity
        #expect(mode(made.keyPath) == 0o600)
        #expect(mode(made.certificatePath) & 0o022 == 0)
        #expect(Support.readText(made.keyPath).hasPrefix("-----BEGIN PRIVATE KEY-----"))
        #expect(try host.store.identity.fingerprint == made.fingerprint)
        #expect(listFolder(host.directory) == ["cert.pem", "key.pem", "peers"])
        let renewed = try host.store.renewIdentity()
        #expect(renewed.fingerprint != made.fingerprint)
        try renewed.checkValidity()
    }

    @Test func `a key that others can read is not used`() throws {
        let host = try Host()
        let identity = try host.store.identity
        chmod(identity.keyPath, 0o640)
        let error = #expect(throws: CheckpointError.self) { try host.store.identity }
        #expect(error?.errno == EPERM && error?.description.contains("chmod 600") == true, "\(error?.description ?? "")")
    }

    @Test func `a key and a certificate of different hosts are refused`() throws {
        let (a, b) = (try Host(), try Host())
        _ = try a.store.identity
        try writeFile("\(a.directory)/cert.pem", Support.readBytes(b.store.identity.certificatePath))
        let error = #expect(throws: CheckpointError.self) { try a.store.identity }
        #expect(error?.errno == EINVAL, "\(error?.description ?? "")")
    }

    @Test func `peers are written, read, replaced and forgotten`() throws {
        let (host, other) = (try Host(), try Host())
        let fingerprint = try other.store.identity.fingerprint
        let peer = Peer(name: "hostb", address: "[2001:db8::7]:7443", fingerprint: fingerprint, validUntil: 1_900_000_000)
        try host.store.trust(peer)
        #expect(try host.store.peers == [peer])
        #expect(try host.store.peer("[2001:db8::7]:7443") == peer)
        #expect(try host.store.peer(withFingerprint: fingerprint) == peer)
        let twin = #expect(throws: CheckpointError.self) { try host.store.trust(Peer(name: "hostc", address: "h:1", fingerprint: fingerprint)) }
        #expect(twin?.errno == EEXIST)
        try host.store.distrust(name: "hostb")
        #expect(try host.store.peers.isEmpty)
        let gone = #expect(throws: CheckpointError.self) { try host.store.distrust(name: "hostb") }
        #expect(gone?.errno == ENOENT)
    }

    @Test(arguments: [
        "", "{", "[]", #"{"name":"b"}"#, #"{"name":"c","address":"h:1","fingerprint":"F"}"#, #"{"name":"b","address":"h","fingerprint":"F"}"#,
        #"{"name":"b","address":"h:1","fingerprint":"sha256:12"}"#, #"{"name":"b","address":"h:1","fingerprint":7}"#,
    ]) func `a malformed peer file is named`(text: String) throws {
        let host = try Host()
        let fingerprint = "sha256:" + String(repeating: "ab", count: 32)
        try writeFile("\(host.directory)/peers/b.json", text.replacing("\"F\"", with: "\"\(fingerprint)\""))
        let error = #expect(throws: CheckpointError.self) { try host.store.peers }
        #expect(error?.what.contains("peers/b.json is malformed") == true, "\(error?.description ?? "")")
    }

    @Test func `a peer file that others can write is not believed`() throws {
        let (host, other) = (try Host(), try Host())
        try host.trust("b", other)
        chmod("\(host.directory)/peers/b.json", 0o666)
        let error = #expect(throws: CheckpointError.self) { try host.store.peers }
        #expect(error?.errno == EPERM)
    }

    @Test(arguments: ["", ".", "..", "a/b", "../key", "-x", "a b", "ä", String(repeating: "a", count: 65)])
    func `names that cannot be file names are refused`(name: String) throws {
        let host = try Host()
        #expect(throws: CheckpointError.self) {
            try host.store.trust(Peer(name: name, address: "h:1", fingerprint: Fingerprint(bytes: Array(repeating: 1, count: 32))))
        }
        #expect(throws: CheckpointError.self) { try host.store.distrust(name: name) }
    }

    @Test func `addresses and fingerprints are read as people write them`() {
        #expect(HostPort("h:7443")?.host == "h")
        #expect(HostPort("[::1]:7443")?.description == "[::1]:7443")
        for bad in ["h", "h:", ":1", "h:0", "h:70000", "::1:5", "a b:1", "h/x:1"] { #expect(HostPort(bad) == nil, "\(bad)") }
        let digits = String(repeating: "AB:", count: 31) + "AB"
        #expect(Fingerprint("SHA256:\(digits)")?.bytes == Array(repeating: 0xab, count: 32))
        #expect(Fingerprint("sha1:abcd") == nil)
    }
}
