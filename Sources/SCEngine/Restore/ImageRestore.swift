// `restore IMAGE`: the target's half of a move whose continuation comes from a file.

import CProc
import Glibc
import SCImage

/// Rebuilds the sessions of an image and hands them over.
package struct ImageRestore {
    private let sessions: [Session]
    private let driver: any HandoverDriver
    private let namespace: NetworkNamespace

    package init(_ sessions: [Session], handover: any HandoverDriver, in namespace: NetworkNamespace) {
        (self.sessions, driver, self.namespace) = (sessions, handover, namespace)
    }

    /// Returns the pid that has the sessions. A session that is held in this very namespace (`snapshot --take` on the same host) is let go at the last
    /// moment, and taken back into the hold when the restore fails.
    package func run() throws(CheckpointError) -> Int32 {
        let offers = sessions.flatMap { session in
            session.channels.enumerated().map {
                SessionOffer(flow: Flow($1), adapter: session.adapter, stateBytes: $0 == 0 ? session.state.count : 0)
            }
        }
        var local: [(record: HoldRecord, socket: HeldSocket, channel: TCPChannel)] = []
        do throws(CheckpointError) {
            try driver.prepare(offers, layout: try layout())
            local = try releaseLocalHolds()
            for session in sessions { try driver.rebuild(session) }
            try driver.consent()
        } catch {
            driver.discard()
            takeBack(local)
            throw error
        }
        for entry in local {
            HoldMute(namespace).remove([entry.record.flow])
            SourceEntry.Local.empty(entry.record.locals)
            entry.record.continueProcesses()
            entry.record.remove()
        }
        do throws(CheckpointError) {
            try driver.activate()
            let pid = try driver.deliver()
            driver.cleanUp()
            return pid
        } catch {
            var error = error
            error.outcome = .needsRecovery
            throw error
        }
    }

    /// The session of several processes among them, which has to be alone.
    private func layout() throws(CheckpointError) -> Session? {
        guard let session = sessions.first(where: { !$0.processes.isEmpty }) else { return nil }
        guard sessions.count == 1 else {
            throw CheckpointError(
                "cannot restore \(sessions.count) sessions together", why: "session \(session.id) is one of several processes", errno: EINVAL,
                advice: "Restore it from an image of its own")
        }
        return session
    }

    private func releaseLocalHolds() throws(CheckpointError) -> [(record: HoldRecord, socket: HeldSocket, channel: TCPChannel)] {
        var local: [(record: HoldRecord, socket: HeldSocket, channel: TCPChannel)] = []
        for session in sessions {
            guard let record = HoldRecord.find(session.id), let socket = try? record.socket(),
                try NetworkNamespace.of(socket: socket.raw).isSame(as: namespace)
            else { continue }
            try socket.letGo()
            local.append((record, socket, session.channels[0]))
        }
        return local
    }

    private func takeBack(_ local: [(record: HoldRecord, socket: HeldSocket, channel: TCPChannel)]) {
        for entry in local {
            guard let copy = try? entry.socket.duplicate(),
                let restored = try? RestoredSocket(entry.channel, onto: copy, in: namespace, isInPlace: true)
            else { continue }
            HoldMute(namespace).remove([entry.record.flow])
            try? restored.activate()
            entry.record.continueProcesses()
            entry.record.remove()
        }
    }
}

/// All sessions of an image file, checked to its end before any of them is used.
package func loadImage(_ path: String) throws(CheckpointError) -> (inventory: Inventory, version: UInt16, sessions: [Session]) {
    let fd = path == "-" ? dup(0) : open(path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else {
        throw CheckpointError("cannot open the image \(path)", result: Int(-errno))
    }
    let file = OwnedDescriptor(fd)
    do throws(ImageError) {
        var reader = try ImageReader(DescriptorSource(file.raw, operation: "reading the image"))
        var sessions: [Session] = []
        while let session = try reader.next() { sessions.append(session) }
        return (reader.inventory, reader.formatVersion, sessions)
    } catch {
        throw imageFailure(error, path)
    }
}

/// An image's failure in the form that users see.
package func imageFailure(_ error: ImageError, _ path: String) -> CheckpointError {
    switch error {
    case .io(let number, let operation):
        CheckpointError("\(operation) \(path) failed", result: Int(-number))
    case .unsupportedVersion, .unknownRequiredRecord:
        CheckpointError(
            "cannot read the image \(path)", why: error.description, errno: EPROTONOSUPPORT, advice: "Use the version of sc-checkpoint that wrote it")
    default:
        CheckpointError(
            "the image \(path) is damaged or is not an image", why: error.description, errno: EBADMSG, advice: "Copy it again from where it was made")
    }
}
