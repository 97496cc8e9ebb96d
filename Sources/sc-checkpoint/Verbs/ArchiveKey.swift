// `archive key`: the keys to which images are sealed.

import ArgumentParser
import SCArchive
import SCEngine

struct ArchiveKey: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key",
        abstract: "Makes a key for sealed images, or prints the public key of one.",
        discussion: """
            The secret key goes into FILE (mode 0600); it opens images and belongs where they are looked at. The public key is printed; it only seals, and
            belongs on the hosts that archive. A secret key that is lost takes its images with it.

            EXAMPLE
              sc-checkpoint archive key ~/archive.key
              sc-checkpoint archive key --public ~/archive.key
            """)

    @Argument(help: "The secret key's file.") var file: String
    @Flag(name: .customLong("public"), help: "Print the public key of a key that is there.") var isPublic = false

    func run() throws {
        if isPublic { return Terminal.print(try SecretKey.load(file).publicKey.description) }
        let key = try SecretKey.make()
        try key.write(to: file)
        Terminal.note("the secret key is in \(file); keep a copy where it is safe")
        Terminal.print(key.publicKey.description)
    }
}
