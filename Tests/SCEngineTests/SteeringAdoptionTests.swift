// A steering driver whose process has ended, at every point of a move, taken over by another from its record and from what the kernel has.

import Glibc
import SCImage
import Support
import Testing

@testable import SCEngine

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct SteeringAdoptionTests {
    enum Point: Int, CaseIterable {
        case prepared, frozen, steered, released
    }

    /// One connection between the client and A of a lab, both ends in this process.
    private final class World {
        let lab: Lab
        let client, server: Int32
        let namespace: NetworkNamespace
        let flow: Flow
        private let clean: Leftovers

        init(_ driver: SteeringChoice) throws {
            lab = try Lab(split: driver == .tunnel)
            if case .arpTakeover = driver {
                let service = lab.serviceAddress(.ipv4)
                _ = try lab.check(in: .a, ["ip", "address", "delete", service, "dev", "lo"])
                _ = try lab.check(in: .a, ["ip", "address", "add", "\(service)/24", "dev", "eth0"])
                _ = try lab.check(in: .router, ["ip", "route", "delete", service])
            }
            clean = try Leftovers.snapshot(of: lab)
            let listener = try lab.listen(on: .a, lab.serviceAddress(.ipv4), 7300)
            client = try lab.connect(from: .client, to: lab.serviceAddress(.ipv4), 7300)
            server = accept(listener, nil, nil)
            close(listener)
            namespace = try NetworkNamespace.of(socket: server)
            let view = SocketView(server)
            flow = Flow(client: try #require(view.peer), service: try #require(view.local))
        }

        deinit {
            for fd in [client, server] { close(fd) }
            lab.down()
        }

        var move: SteeringMove {
            let address = IPAddress(lab.address(.b, .ipv4))!
            return SteeringMove(flows: [flow], namespace: namespace, targetAddresses: [AddressPrefix(address, length: 24)], targetName: "b")
        }

        func say(_ text: String) { _ = write(client, text, text.utf8.count) }

        /// What the server has heard within the time.
        func heard(within milliseconds: Int32) -> String {
            var waiting = pollfd(fd: server, events: Int16(POLLIN), revents: 0)
            guard poll(&waiting, 1, milliseconds) == 1 else { return "" }
            var buffer = [UInt8](repeating: 0, count: 100)
            let count = read(server, &buffer, buffer.count)
            return count < 0 ? "errno \(errno)" : String(decoding: buffer[..<count], as: UTF8.self)
        }

        func left() throws -> [String] { try clean.check(within: .seconds(2)) }
    }

    /// Brings a driver to the point, and lets it go without a word, as the end of its process would. Returns its record.
    private func abandon(_ driver: SteeringChoice, _ world: World, at point: Point) throws -> [String: String] {
        let steering = try makeSourceSteering(driver, for: world.move)
        let record = steering.record
        #expect(record.allSatisfy { !$0.value.contains("\n") && !$0.key.contains("=") })
        if point.rawValue >= Point.frozen.rawValue { try steering.freeze() }
        if point.rawValue >= Point.steered.rawValue { try steering.steer() }
        if point.rawValue >= Point.released.rawValue { try steering.release() }
        return record
    }

    static let drivers: [SteeringChoice] = [.none, .nftForward, .tunnel, .arpTakeover(force: true)]

    /// A flow of nobody's, beside the world's.
    private func other(_ world: World) -> Flow { Flow(client: SocketAddress("\(world.flow.client.address):9")!, service: world.flow.service) }

    @Test(arguments: [false, true]) func `one flow left out, and its driver gone before or after that was written down`(isNoted: Bool) throws {
        let world = try World(.nftForward)
        let other = other(world)
        var move = world.move
        move.flows.append(other)
        let record: [String: String]
        do {
            let steering = try makeSourceSteering(.nftForward, for: move)
            record = steering.record
            try steering.freeze()
            world.say("held")
            #expect(world.heard(within: 30) == "")
            try steering.leave([other])
        }
        let successor = try adoptSourceSteering(record, flows: isNoted ? [world.flow] : [world.flow, other], in: world.namespace)
        if isNoted { try successor.adopt(left: [other]) }
        successor.rollBack()
        successor.finish()
        #expect(world.heard(within: 1000) == "held")
        let left = try world.left()
        #expect(left.isEmpty, "\(left)")
    }

    @Test(arguments: [false, true]) func `what was parked of a flow that stays comes here when the others go on`(isAdopted: Bool) throws {
        let world = try World(.nftForward)
        let other = other(world)
        var move = world.move
        move.flows.append(other)
        let record: [String: String]
        var steering: (any SourceSteering)? = try makeSourceSteering(.nftForward, for: move)
        record = steering!.record
        try steering!.freeze()
        world.say("one ")
        #expect(world.heard(within: 30) == "")
        try steering!.leave([world.flow])
        // Still behind what came before it.
        world.say("two")
        #expect(world.heard(within: 30) == "")
        if isAdopted {
            steering = nil
            steering = try adoptSourceSteering(record, flows: [other], in: world.namespace)
            try steering!.adopt(left: [world.flow])
        }
        try steering!.steer()
        try steering!.release()
        steering!.finish()
        var heard = world.heard(within: 1000)
        if heard == "one " { heard += world.heard(within: 1000) }
        #expect(heard == "one two")
        world.say("three")
        #expect(world.heard(within: 1000) == "three")
        // The other flow is passed on, by design.
        steering = nil
        let end = try adoptSourceSteering(record, flows: [other], in: world.namespace)
        end.rollBack()
        end.finish()
        let left = try world.left()
        #expect(left.isEmpty, "\(left)")
    }

    @Test(arguments: drivers, Point.allCases) func `rolled back from any point, the packets come here and nothing is left`(
        driver: SteeringChoice, point: Point
    ) throws {
        let world = try World(driver)
        let record = try abandon(driver, world, at: point)
        if point == .frozen {
            world.say("held")
            #expect(world.heard(within: 30) == "")
        }
        let successor = try adoptSourceSteering(record, flows: [world.flow], in: world.namespace)
        successor.rollBack()
        successor.rollBack()
        successor.finish()
        if point == .frozen { #expect(world.heard(within: 150) == "held") }
        world.say("after")
        #expect(world.heard(within: 150) == "after")
        try #expect(world.left() == [])
    }

    @Test(arguments: drivers, Point.allCases) func `finished from any point, the packets do not come here any longer`(
        driver: SteeringChoice, point: Point
    ) throws {
        let world = try World(driver)
        let record = try abandon(driver, world, at: point)
        let successor = try adoptSourceSteering(record, flows: [world.flow], in: world.namespace)
        for _ in 0..<2 { try successor.freeze() }
        for _ in 0..<2 { try successor.steer() }
        for _ in 0..<2 { try successor.release() }
        for _ in 0..<2 { successor.finish() }
        let rules = try world.lab.run(in: .a, ["nft", "list", "ruleset"]).stdout
        switch driver {
        case .nftForward, .tunnel:
            #expect(rules.contains(" : \(driver == .tunnel ? "169.254.78.1" : "10.77.0.12")"), "\(rules)")
            successor.rollBack()
            successor.finish()
            try #expect(world.left() == [])
        case .arpTakeover:
            try #expect(!world.lab.run(in: .a, ["ip", "-o", "address"]).stdout.contains("10.77.0.100/"))
            #expect(!rules.contains("sc_checkpoint"), "\(rules)")
            successor.rollBack()
            successor.finish()
            world.say("back")
            #expect(world.heard(within: 300) == "back")
        default:
            #expect(!rules.contains("sc_checkpoint"), "\(rules)")
        }
    }

    @Test func `a record that this program has not written is refused`() throws {
        let world = try World(.none)
        for record in [[:], ["driver": "magic"], ["driver": "router"], ["driver": "arp-takeover", "addresses": "x"]] {
            #expect(throws: CheckpointError.self) { try adoptSourceSteering(record, flows: [world.flow], in: world.namespace) }
            #expect(throws: CheckpointError.self) { try adoptTargetSteering(record, flows: [world.flow], in: world.namespace) }
        }
    }
}
