// An archive: a directory of images, each in a file named by its content.
//
//   sc-archive          which version of this layout it is
//   images/ID.sci.zst   an image (ID.sci.sealed: a sealed one) and what is known of it; never changed, only replaced as a whole
//   new/                files that are being written; each is locked by its writer, so that those of dead ones are told apart
//   index               the entries of all images, so that listing opens none of them; made anew whenever it is not right
//   stale               there while an entry of the index may be older than its image's
//   lock                held while a name in images/ or the index changes

import Glibc
import SCEngine
import SCImage

package final class Archive {
    package let path: String
    let images: SharedDescriptor
    let drafts: SharedDescriptor
    private static let version = 1
    private static let own: Set<String> = ["sc-archive", "images", "new", "index", "stale", "lock"]

    /// `$SC_ARCHIVE`; else for root below the directory of lasting state, and for a user below `$XDG_STATE_HOME` (~/.local/state).
    package static var standardPath: String {
        if let path = getenv("SC_ARCHIVE") { return String(cString: path) }
        if geteuid() == 0 || getenv("SC_STATE_DIR") != nil { return "\(StateDirectory.persistent)/archive" }
        let state = getenv("XDG_STATE_HOME").map { String(cString: $0) } ?? getenv("HOME").map { String(cString: $0) + "/.local/state" } ?? "/tmp"
        return "\(state)/sc-checkpoint/archive"
    }

    /// Opens an archive; with `creating` makes it, and the directories above it, mode 0700. ENOENT: there is none. ENOTEMPTY: the directory holds
    /// something else. EPROTONOSUPPORT: a newer program made it.
    package init(_ path: String, creating: Bool = false) throws(CheckpointError) {
        self.path = path
        if creating { try Self.make(path) }
        try Self.checkMarker(path)
        images = try Self.directory("\(path)/images", in: path)
        drafts = try Self.directory("\(path)/new", in: path)
    }

    private static func make(_ path: String) throws(CheckpointError) {
        guard makeDirectory(path) else {
            throw CheckpointError("cannot make the archive \(path)", result: Int(-errno), advice: "Name another directory with --archive")
        }
        guard let names = entryNames(of: path) else {
            throw CheckpointError("cannot make the archive \(path)", result: Int(-errno), advice: "Name another directory with --archive")
        }
        if names.contains("sc-archive") { return }
        if let foreign = names.first(where: { !own.contains($0) && !$0.hasPrefix("sc-archive.") }) {
            throw CheckpointError(
                "\(path) is no archive", why: "it holds something else (\(foreign))", errno: ENOTEMPTY,
                advice: "Name an empty directory, or one that is not there yet, with --archive")
        }
        for name in ["images", "new"] where mkdir("\(path)/\(name)", 0o700) != 0 && errno != EEXIST {
            throw CheckpointError("cannot make the archive \(path)", result: Int(-errno), advice: "Name another directory with --archive")
        }
        do throws(CheckpointError) {
            // Two that make the same archive at once write the same.
            try ConfigurationFile.write(
                "\(path)/sc-archive", Array("sc-checkpoint archive, version \(version)\n".utf8), mode: 0o600, replacing: false)
        } catch {
            throw error.during("cannot make the archive \(path)")
        }
    }

    /// mkdir -p, mode 0700; false, with errno, when it cannot be done.
    private static func makeDirectory(_ path: String) -> Bool {
        if mkdir(path, 0o700) == 0 || errno == EEXIST { return true }
        guard errno == ENOENT, let cut = path.lastIndex(of: "/"), cut != path.startIndex else { return false }
        return makeDirectory(String(path[..<cut])) && (mkdir(path, 0o700) == 0 || errno == EEXIST)
    }

    private static func checkMarker(_ path: String) throws(CheckpointError) {
        guard let text = readText("\(path)/sc-archive") else {
            let number = errno
            if number == ENOENT || number == ENOTDIR {
                throw CheckpointError(
                    "there is no archive \(path)", why: systemMessage(number), errno: number,
                    advice: "sc-checkpoint archive add makes one; --archive names another")
            }
            throw CheckpointError("cannot open the archive \(path)", result: -Int(number), advice: "It belongs to another user")
        }
        guard text.hasPrefix("sc-checkpoint archive, version "), let found = Int(text.dropFirst(31).prefix { $0.isNumber }) else {
            throw CheckpointError("\(path) is no archive", why: "its file sc-archive says something else", errno: EBADMSG)
        }
        guard found == version else {
            throw CheckpointError(
                "cannot use the archive \(path)", why: "its layout has version \(found); this program knows version \(version)",
                errno: EPROTONOSUPPORT,
                advice: "Use the version of sc-checkpoint that made it")
        }
    }

    private static func directory(_ path: String, in archive: String) throws(CheckpointError) -> SharedDescriptor {
        let raw = Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if raw < 0 { throw CheckpointError("cannot open the archive \(archive)", result: Int(-errno), advice: "\(path) is missing or not readable") }
        return SharedDescriptor(raw)
    }

    /// Runs `body` while nobody else changes a name. EACCES, EROFS: the archive cannot be written.
    func locked<Value>(_ body: () throws(CheckpointError) -> Value) throws(CheckpointError) -> Value {
        let raw = Glibc.open("\(path)/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        let lock = OwnedDescriptor(try check(raw < 0 ? -errno : raw, "cannot write to the archive \(path)", advice: writeAdvice(errno)))
        while flock(lock.raw, LOCK_EX) != 0 {
            guard errno == EINTR else { throw CheckpointError("cannot lock the archive \(path)", result: Int(-errno)) }
        }
        return try body()
    }

    /// What usually helps when the archive cannot be written.
    func writeAdvice(_ number: Int32) -> String {
        switch number {
        case ENOSPC, EDQUOT: "Make room with sc-checkpoint archive prune, or name another directory with --archive; the archive is as it was"
        case EACCES, EROFS, EPERM: "Run as the archive's owner, or name another directory with --archive"
        default: ""
        }
    }

    /// A failure while an image is written or read.
    func failure(_ error: ImageError, _ what: String) -> CheckpointError {
        switch error {
        case .io(EKEYREJECTED, _):
            CheckpointError(
                what, why: "it is sealed to other keys", errno: EKEYREJECTED, advice: "Name the secret key of one of its recipients with --key")
        case .io(let number, let operation):
            CheckpointError("\(what): \(operation)", why: systemMessage(number), errno: number, advice: writeAdvice(number))
        case .unsupportedVersion:
            CheckpointError(what, why: error.description, errno: EPROTONOSUPPORT, advice: "Use the version of sc-checkpoint that wrote it")
        default:
            CheckpointError(what, why: error.description, errno: EBADMSG, advice: "sc-checkpoint archive verify names everything that is damaged")
        }
    }
}

/// A name in `images/`.
package struct ImageName: Hashable, Comparable, Sendable {
    /// The SHA-256, most significant bytes first: as numbers, since ten thousand of them are compared with an index.
    private let words: (UInt64, UInt64, UInt64, UInt64)
    let isSealed: Bool

    init(_ entry: ArchiveEntry) {
        var bytes = entry.id.makeIterator()
        func word() -> UInt64 { (0..<8).reduce(0) { value, _ in value << 8 | UInt64(bytes.next() ?? 0) } }
        (words, isSealed) = ((word(), word(), word(), word()), entry.isSealed)
    }

    /// Nil for what no archive has named.
    init?(_ file: String) {
        var digits = file.utf8.makeIterator()
        func word() -> UInt64? {
            var value: UInt64 = 0
            for _ in 0..<16 {
                switch digits.next() {
                case .some(let digit) where (48...57).contains(digit): value = value << 4 | UInt64(digit - 48)
                case .some(let digit) where (97...102).contains(digit): value = value << 4 | UInt64(digit - 87)
                default: return nil
                }
            }
            return value
        }
        guard let one = word(), let two = word(), let three = word(), let four = word() else { return nil }
        words = (one, two, three, four)
        if file.hasSuffix(".sci.zst"), file.utf8.count == 72 {
            isSealed = false
        } else if file.hasSuffix(".sci.sealed"), file.utf8.count == 75 {
            isSealed = true
        } else {
            return nil
        }
    }

    /// 64 hexadecimal digits.
    package var id: String {
        hexadecimalText([words.0, words.1, words.2, words.3].flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> (56 - 8 * $0)) } })
    }

    package var file: String { "\(id).sci.\(isSealed ? "sealed" : "zst")" }

    package static func == (one: ImageName, other: ImageName) -> Bool { one.words == other.words && one.isSealed == other.isSealed }

    // A digest is as good a hash as any.
    package func hash(into hasher: inout Hasher) { hasher.combine(words.0) }

    package static func < (one: ImageName, other: ImageName) -> Bool { one.words < other.words }
}

extension Archive {
    /// The names in `images/`: those of images, and foreign ones.
    func names() throws(CheckpointError) -> (images: [ImageName], foreign: [String]) {
        guard let names = entryNames(of: "\(path)/images") else { throw CheckpointError("cannot read the archive \(path)", result: Int(-errno)) }
        var (images, foreign) = ([ImageName](), [String]())
        images.reserveCapacity(names.count)
        for name in names {
            if let image = ImageName(name) { images.append(image) } else { foreign.append(name) }
        }
        return (images, foreign)
    }

    /// Opens an image's file. ENOENT: it was removed meanwhile.
    func open(_ name: ImageName) throws(CheckpointError) -> SharedDescriptor {
        let raw = openat(images.raw, name.file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        if raw >= 0 { return SharedDescriptor(raw) }
        throw CheckpointError(
            "cannot open the archived image \(name.id.prefix(12))", why: errno == ENOENT ? "it was removed meanwhile" : systemMessage(errno),
            errno: errno,
            advice: errno == ENOENT ? "See sc-checkpoint archive list" : "")
    }

    /// The one image whose id begins with these digits, at least four of them.
    package func find(_ prefix: String) throws(CheckpointError) -> ImageName {
        guard prefix.utf8.count >= 4, prefix.utf8.count <= 64, prefix.allSatisfy(\.isHexDigit) else {
            throw CheckpointError(
                "\(prefix) is no id", why: "4 to 64 hexadecimal digits are expected", errno: EINVAL, advice: "See sc-checkpoint archive list",
                outcome: .usage)
        }
        let found = try names().images.filter { $0.id.hasPrefix(prefix.lowercased()) }.sorted()
        switch found.count {
        case 1: return found[0]
        case 0:
            throw CheckpointError(
                "there is no image \(prefix) in \(path)", why: "no id begins so", errno: ENOENT, advice: "See sc-checkpoint archive list")
        default:
            throw CheckpointError(
                "\(prefix) is not one image",
                why: "\(found.count) ids begin so: \(found.prefix(4).map { String($0.id.prefix(12)) }.joined(separator: ", "))",
                errno: EINVAL, advice: "Give more digits")
        }
    }
}
