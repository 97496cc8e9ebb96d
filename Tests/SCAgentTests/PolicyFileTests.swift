// The policy's file: refused when somebody else could have written it, with real files.

import Glibc
import SCAgent
import SCEngine
import Support
import Testing

@Suite struct PolicyFileTests {
    let folder: String
    let path: String

    init() throws {
        var template = Array("/tmp/sc-policy-XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        path = folder + "/agent.json5"
        try writeFile(path, "{limits: {connections: 3}}")
    }

    private func end() { for name in listFolder(folder) { unlink("\(folder)/\(name)") }; rmdir(folder) }

    private func refuses(_ words: String..., at location: SourceLocation = #_sourceLocation) {
        let error = #expect(throws: CheckpointError.self, sourceLocation: location) { try Policy.load(path) }
        for word in words { #expect("\(error!)".contains(word), "\(word) is missing in: \(error!)", sourceLocation: location) }
    }

    @Test func `a file of one's own is read`() throws {
        defer { end() }
        #expect(try Policy.load(path).limits.connections == 3)
        for mode in [0o644, 0o640, 0o600, 0o400] as [mode_t] {
            chmod(path, mode)
            #expect(throws: Never.self) { try Policy.load(path) }
        }
    }

    @Test func `modes that let others write are refused`() throws {
        defer { end() }
        for mode in [0o620, 0o602, 0o666] as [mode_t] {
            chmod(path, mode)
            refuses("the policy \(path) is not believed", "others can write it (mode \(String(mode, radix: 8)))", "EPERM", "chmod go-w \(path)")
        }
        chmod(path, 0o600)
        for mode in [0o770, 0o707, 0o1777] as [mode_t] {
            chmod(folder, mode)
            refuses("the policy's directory \(folder) is not believed", "others can write it", "chmod go-w \(folder)")
        }
    }

    @Test(.enabled(if: geteuid() == 0, "needs root: it gives files away")) func `files of others are refused`() throws {
        defer { end() }
        chown(path, 65534, 65534)
        refuses("the policy \(path) is not believed", "it belongs to user 65534", "EPERM", "chown root \(path)")
        chown(path, 0, 0)
        chown(folder, 65534, 65534)
        refuses("the policy's directory \(folder) is not believed", "it belongs to user 65534")
        chown(folder, 0, 0)
        #expect(throws: Never.self) { try Policy.load(path) }
    }

    @Test func `what is no file is refused`() throws {
        defer { end() }
        unlink(path)
        refuses("cannot read the policy \(path)", "ENOENT", "docs/agent.md")
        try writeFile("\(folder)/other", "{}")
        symlink("\(folder)/other", path)
        refuses("ELOOP", "symbolic link")
        unlink(path)
        mkfifo(path, 0o600)
        refuses("is not believed", "not a regular file")
        unlink(path)
        try writeFile(path, String(repeating: " ", count: 1 << 20) + " {}")
        refuses("longer than 1048576 bytes", "EFBIG")
        try writeFile(path, "{limit: 3}")
        refuses("the policy \(path) cannot be used", "no key limit", "Did you mean limits?")
    }
}
