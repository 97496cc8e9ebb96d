// Moves bytes between the engine's socket and the TLS connection in one thread: whoever waits for one direction keeps the other going.

import CProc
import Glibc
import SCEngine
import SCImage

/// Both directions of a terminator. Only `read` looks at what the peer sends; what the engine sends is encrypted and not looked at.
final class TLSPump {
    private let tls: TLSConnection
    private let socket: Int32
    private let engine: Int32
    private let idle: Int
    private var deadline: Deadline

    /// Bytes of the engine that wait for encryption: `head..<tail` of `buffer`.
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 16)
    private var head = 0
    private var tail = 0
    /// The engine has ended its direction, and the peer has been told.
    private var engineHasEnded = false
    private var peerIsTold = false
    /// Nobody reads what is written to the engine.
    private var engineIsGone = false
    private var connectionIsBroken = false

    /// Both descriptors are non-blocking and stay the caller's.
    init(_ tls: TLSConnection, socket: Int32, engine: Int32, idleMilliseconds: Int) {
        (self.tls, self.socket, self.engine, idle) = (tls, socket, engine, idleMilliseconds)
        deadline = Deadline(milliseconds: idleMilliseconds)
    }

    deinit { buffer.deallocate() }

    /// Waits for decrypted bytes; 0 at the end of the peer's stream, or of the engine.
    func read(into destination: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        while true {
            if connectionIsBroken { return 0 }
            if let count = tls.read(into: destination) {
                if count > 0 { touch() }
                return count
            }
            if try !send() { try wait(socketEvents: POLLIN, engineEvents: 0) }
            if engineIsGone { return 0 }
        }
    }

    /// Writes all of `bytes` to the engine.
    func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        var rest = bytes
        while !rest.isEmpty {
            let count = Glibc.write(engine, rest.baseAddress, rest.count)
            if count > 0 {
                touch()
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            } else if errno == EAGAIN {
                if try !send() { try wait(socketEvents: 0, engineEvents: POLLOUT) }
            } else if errno != EINTR {
                engineIsGone = true
                throw .io(errno: errno, operation: "passing a message on")
            }
        }
    }

    /// After the peer's last message: tells the engine, and sends what it still has to say until it ends too.
    func finish() {
        shutdown(engine, Int32(SHUT_WR))
        while !connectionIsBroken, !peerIsTold {
            guard let moved = try? send() else { return }
            if !moved, !peerIsTold, (try? wait(socketEvents: 0, engineEvents: 0)) == nil { return }
        }
    }

    /// Takes what the engine has written and encrypts it; false when nothing moved.
    private func send() throws(ImageError) -> Bool {
        var moved = false
        if head == tail, !engineHasEnded {
            let count = Glibc.read(engine, buffer.baseAddress, buffer.count)
            if count > 0 {
                (head, tail, moved) = (0, count, true)
            } else if count == 0 {
                engineHasEnded = true
            } else if errno != EAGAIN, errno != EINTR {
                (engineHasEnded, engineIsGone) = (true, true)
            }
        }
        while head < tail, !connectionIsBroken, let count = tls.write(UnsafeRawBufferPointer(rebasing: buffer[head..<tail])) {
            if count == 0 { connectionIsBroken = true }
            (head, moved) = (head + count, true)
        }
        if engineHasEnded, head == tail, !peerIsTold {
            tls.end()
            peerIsTold = true
        }
        if moved { touch() }
        return moved
    }

    private func touch() { deadline = Deadline(milliseconds: idle) }

    /// Waits until something asked for, or something of the other direction, can be done.
    private func wait(socketEvents: Int32, engineEvents: Int32) throws(ImageError) {
        let takesMore = head == tail && !engineHasEnded
        // A socket that is not asked for anything would wake poll for ever with POLLHUP.
        let asked = (socketEvents | (head < tail ? POLLOUT : 0), engineEvents | (takesMore ? POLLIN : 0))
        var entries = [
            pollfd(fd: asked.0 == 0 ? -1 : socket, events: Int16(asked.0), revents: 0),
            pollfd(fd: engineHasEnded && peerIsTold && engineIsGone ? -1 : engine, events: Int16(asked.1), revents: 0),
        ]
        let ready = poll(&entries, 2, deadline.remainingMilliseconds)
        if ready < 0, errno != EINTR { throw .io(errno: errno, operation: "waiting for the peer") }
        if ready == 0 { throw .io(errno: ETIMEDOUT, operation: "waiting for the peer") }
        if engineHasEnded, head == tail, entries[1].revents & Int16(POLLHUP | POLLERR) != 0 { engineIsGone = true }
    }
}

/// What the peer says, for the reader of wire messages.
struct PeerSource: ByteSource {
    let pump: TLSPump
    mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int { try pump.read(into: buffer) }
}

/// What the engine gets to hear.
struct EngineSink: ByteSink {
    let pump: TLSPump
    mutating func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) { try pump.write(bytes) }
}
