// A fence: an authority outside of both hosts that lets exactly one target have a session.

import SCImage

/// Two hosts settle a move between themselves; a fence decides when more than one target could believe that the session is its own.
///
/// The target calls `prepare` while the session still runs, `take` right before it activates, and `settle` when the client is served. `undo` in place of
/// `settle` after any failure, when the source has been told: it may wait for an answer once more, and the client waits for the source. A fence that cannot be asked refuses: no answer is no permission.
package protocol Fence: AnyObject {
    /// Everything that takes time: reads who has the sessions, which must be nobody, `source`, or `owner` itself.
    func prepare(_ keys: [String], owner: String, source: String) throws(CheckpointError)
    /// These do not come; before `take`.
    func withdraw(_ keys: [String])
    /// All of the sessions or none. EBUSY: another target has one.
    func take() throws(CheckpointError)
    /// The records stay, as a directory of who has what, until somebody releases them. ESTALE: they were lost meanwhile.
    func settle() throws(CheckpointError)
    /// As before `prepare`.
    func undo()
    /// The sessions have ended: removes the records that name this owner.
    func release(_ keys: [String], owner: String) throws(CheckpointError)
}

extension Flow {
    /// The session's name at a fence: what no two sessions share at a time.
    package var fenceKey: String { "\(client)-\(service)" }
}

/// A host's name at a fence: hosts of one name are told apart by their boot and network namespace.
package func fenceOwner(_ host: String, _ namespace: NamespaceIdentity?) -> String {
    guard let namespace else { return host }
    return "\(host)#\(namespace.bootID.prefix(4).map(hexadecimal).joined())-\(namespace.inode)"
}
