// Keys as text and in files.

import Glibc
import SCArchive
import SCEngine
import Testing

struct KeyTests {
    @Test func `a public key survives being written and read, and a slip of the pen does not`() throws {
        let key = try SecretKey.make().publicKey
        #expect(PublicKey(key.description) == key)
        var text = Array(key.description)
        text[20] = text[20] == "0" ? "1" : "0"
        #expect(PublicKey(String(text)) == nil)
        #expect(PublicKey("scpub1") == nil && PublicKey("") == nil)
    }

    @Test func `a key that others can read is refused, and one that exists is not replaced`() throws {
        let path = "/tmp/sc-key-\(UInt64.random(in: 0 ... .max))"
        defer { unlink(path) }
        let key = try SecretKey.make()
        try key.write(to: path)
        #expect(try SecretKey.load(path).publicKey == key.publicKey)
        #expect(throws: CheckpointError.self) { try key.write(to: path) }
        chmod(path, 0o640)
        let failure = #expect(throws: CheckpointError.self) { _ = try SecretKey.load(path) }
        #expect(failure?.errno == EPERM && failure?.why.contains("640") == true)
        #expect(try PublicKey.list([path]) == [key.publicKey])
    }
}
