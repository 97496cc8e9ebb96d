// Keeps a lease alive while a move lasts, on a thread and a connection of its own.

import CProc
import Glibc

final class LeaseKeeper {
    private let client: EtcdClient
    private let lease: String
    private let interval: Int32
    /// Closing the writing end ends the thread at once.
    private let reading: OwnedDescriptor
    private var writing: Int32
    private var thread = pthread_t()

    init(_ lease: String, _ client: EtcdClient, every milliseconds: Int) throws(CheckpointError) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw CheckpointError("cannot make a pipe", result: Int(-errno)) }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        (self.lease, self.client, interval) = (lease, client, Int32(clamping: milliseconds))
        reading = OwnedDescriptor(ends[0])
        writing = ends[1]
        let result = pthread_create(
            &thread, nil,
            { context in
                Unmanaged<LeaseKeeper>.fromOpaque(context!).takeRetainedValue().run()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        guard result == 0 else {
            Unmanaged.passUnretained(self).release()
            close(writing)
            throw CheckpointError("cannot start a thread", result: Int(-result))
        }
    }

    func stop() {
        guard writing >= 0 else { return }
        close(writing)
        writing = -1
        pthread_join(thread, nil)
    }

    private func run() {
        // A failure is tried again until the lease has ended; whether it has is found out by `settle`.
        while cproc_poll(reading.raw, Int16(POLLIN), interval) == 0 {
            _ = try? client.post("lease/keepalive", EtcdLease(ID: lease), as: EtcdKeptAlive.self)
        }
    }
}
