// Sessions in a memory file, so that a keeper can hold them for whoever finishes the move.

import CProc
import Glibc
import SCImage

/// Writes the sessions into a memory file.
func makeSessionFile(_ sessions: [Session]) throws(CheckpointError) -> SharedDescriptor {
    let file = SharedDescriptor(try check(cproc_memfd("sc-sessions"), "cannot make a memory file"))
    do throws(ImageError) {
        var writer = try WireWriter(DescriptorSink(file.raw, operation: "keeping the sessions"))
        for session in sessions { try writer.write(.session(session)) }
    } catch {
        throw CheckpointError("cannot keep the sessions for a crash", why: error.description, errno: ENOMEM, advice: "Free some memory")
    }
    return file
}

/// Reads them again; the file may have been read before.
func readSessionFile(_ file: SharedDescriptor) throws(CheckpointError) -> [Session] {
    lseek(file.raw, 0, SEEK_SET)
    var sessions: [Session] = []
    do throws(ImageError) {
        var reader = try WireReader(DescriptorSource(file.raw, operation: "reading the kept sessions"))
        while case .session(let session)? = try reader.next() { sessions.append(session) }
    } catch {
        throw CheckpointError("the kept sessions cannot be read", why: error.description, errno: EBADMSG)
    }
    return sessions
}
