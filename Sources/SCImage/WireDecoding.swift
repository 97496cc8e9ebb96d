// Wire messages from protobuf to Swift values, checked.

internal import CSCImage

extension RecordArena {
    @unsafe mutating func offer(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> Offer {
        let message = try unsafe unpack(bytes, "Offer", at: offset, by: sc__wire__offer__unpack).pointee
        var offer = Offer()
        offer.tool = try unsafe message.tool.text("tool", at: offset)
        guard let oldest = unsafe UInt16(exactly: message.format_oldest), let newest = unsafe UInt16(exactly: message.format_newest),
            oldest <= newest
        else { throw .malformed(what: "the range of format versions in an offer is impossible", offset: offset) }
        offer.formatVersions = oldest...newest
        offer.host = try unsafe message.host.text("host name", at: offset)
        offer.fence = try unsafe message.fence.text("fence", at: offset)
        offer.migration = unsafe MigrationID(high: message.migration_high, low: message.migration_low)
        offer.flows = try unsafe flows(message.flows, message.n_flows, at: offset)
        offer.steering = try unsafe message.steering.text("steering driver", at: offset)
        if unsafe message.has_boot_id != 0 {
            offer.namespace = unsafe NamespaceIdentity(
                device: message.netns_device, inode: message.netns_inode, bootID: message.boot_id.array)
        }
        if let handover = unsafe message.handover { offer.handover = try unsafe handover.pointee.value(at: offset) }
        unsafe (offer.queueBytes, offer.stateBytes, offer.stateVersion) = (message.queue_bytes, message.state_bytes, message.state_version)
        for index in 0..<(unsafe message.n_local_channels) {
            guard let channel = unsafe message.local_channels[index]?.pointee else { continue }
            offer.locals.append(try unsafe LocalChannel(channel, at: offset))
        }
        for index in 0..<(unsafe message.n_processes) {
            guard let process = unsafe message.processes[index]?.pointee else { continue }
            offer.processes.append(try unsafe SessionProcess(process, at: offset))
        }
        try offer.validateLocals(at: offset)
        unsafe (offer.deadlineMilliseconds, offer.dryRun) = (message.deadline_ms, message.dry_run != 0)
        return offer
    }

    @unsafe mutating func answer(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> Answer {
        let message = try unsafe unpack(bytes, "Answer", at: offset, by: sc__wire__answer__unpack).pointee
        var answer = Answer(accepted: unsafe message.accepted != 0)
        for index in 0..<(unsafe message.n_reasons) {
            guard let reason = unsafe message.reasons?[index]?.pointee else { continue }
            answer.reasons.append(
                Reason(
                    flow: unsafe reason.has_flow != 0 ? Int(reason.flow) : nil,
                    what: try unsafe reason.what.text("reason", at: offset), why: try unsafe reason.why.text("reason", at: offset),
                    advice: try unsafe reason.advice.text("advice", at: offset), errno: unsafe reason.errno_value))
        }
        answer.host = try unsafe message.host.text("host name", at: offset)
        for index in 0..<(unsafe message.n_addresses) {
            let bytes = unsafe message.addresses[index].array
            guard let length = bytes.last, let address = IPAddress(bytes: bytes.dropLast()), length <= 8 * (bytes.count - 1) else {
                throw .malformed(what: "address of \(bytes.count) bytes in an answer", offset: offset)
            }
            answer.addresses.append(AddressPrefix(address, length: length))
        }
        unsafe (answer.isReturning, answer.isSameNamespace) = (message.returning != 0, message.same_netns != 0)
        unsafe (answer.knowsLocalChannels, answer.takesFewer) = (message.knows_local_channels != 0, message.takes_fewer != 0)
        answer.timings = try unsafe timings(message.timings, message.n_timings, at: offset)
        return answer
    }

    @unsafe mutating func report(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> Report {
        let message = try unsafe unpack(bytes, "Report", at: offset, by: sc__wire__report__unpack).pointee
        var report = Report(stages: try unsafe timings(message.stages, message.n_stages, at: offset))
        report.withdrawn = unsafe UnsafeBufferPointer(start: message.withdrawn, count: message.n_withdrawn).map { Int($0) }
        return report
    }

    @unsafe mutating func failure(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> Failure {
        let message = try unsafe unpack(bytes, "Failure", at: offset, by: sc__wire__failure__unpack).pointee
        return Failure(
            what: try unsafe message.what.text("failure", at: offset), why: try unsafe message.why.text("failure", at: offset),
            advice: try unsafe message.advice.text("advice", at: offset), errno: unsafe message.errno_value,
            needsRecover: unsafe message.needs_recover != 0)
    }

    @unsafe mutating func resolve(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> Resolve {
        let message = try unsafe unpack(bytes, "Resolve", at: offset, by: sc__wire__resolve__unpack).pointee
        return unsafe Resolve(MigrationID(high: message.migration_high, low: message.migration_low))
    }

    @unsafe mutating func standing(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> Standing {
        let message = try unsafe unpack(bytes, "Standing", at: offset, by: sc__wire__standing__unpack).pointee
        guard let state = unsafe Standing.State(rawValue: message.state) else {
            throw .malformed(what: "standing of unknown state \(unsafe message.state)", offset: offset)
        }
        return unsafe Standing(MigrationID(high: message.migration_high, low: message.migration_low), state)
    }

    @unsafe mutating func inquiry(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> Inquiry {
        let message = try unsafe unpack(bytes, "Inquiry", at: offset, by: sc__wire__inquiry__unpack).pointee
        return Inquiry(flows: try unsafe flows(message.flows, message.n_flows, at: offset))
    }

    @unsafe mutating func living(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> Living {
        let message = try unsafe unpack(bytes, "Living", at: offset, by: sc__wire__living__unpack).pointee
        return Living(flows: unsafe UnsafeBufferPointer(start: message.flows, count: message.n_flows).map { Int($0) })
    }
}

@unsafe private func flows(
    _ messages: UnsafeMutablePointer<UnsafeMutablePointer<Sc__Wire__Flow>?>?, _ count: Int, at offset: UInt64
) throws(ImageError) -> [Flow] {
    var flows: [Flow] = []
    for index in 0..<count {
        guard let flow = unsafe messages?[index]?.pointee else { continue }
        flows.append(
            Flow(
                local: try unsafe flow.local.socketAddress("local", at: offset), peer: try unsafe flow.peer.socketAddress("peer", at: offset)))
    }
    return flows
}

@unsafe private func timings(
    _ messages: UnsafeMutablePointer<UnsafeMutablePointer<Sc__Wire__Timing>?>?, _ count: Int, at offset: UInt64
) throws(ImageError) -> [Timing] {
    var timings: [Timing] = []
    for index in 0..<count {
        guard let message = unsafe messages?[index]?.pointee else { continue }
        timings.append(
            Timing(
                stage: try unsafe message.stage.text("stage", at: offset), startNanoseconds: unsafe message.start_ns,
                durationNanoseconds: unsafe message.duration_ns))
    }
    return timings
}

extension Sc__Wire__Handover {
    fileprivate func value(at offset: UInt64) throws(ImageError) -> Handover {
        switch unsafe kind {
        case SC__WIRE__HANDOVER_KIND__EXEC.rawValue:
            return unsafe .exec(arguments: UnsafeBufferPointer(start: argv, count: n_argv).map { unsafe $0.array })
        case SC__WIRE__HANDOVER_KIND__INTO.rawValue:
            return unsafe .into(path: path.array)
        case SC__WIRE__HANDOVER_KIND__ONTO.rawValue:
            var texts: [String] = []
            for index in 0..<(unsafe n_options) {
                texts.append(try unsafe options[index].text("adapter option", at: offset))
            }
            return .onto(pid: unsafe pid, adapter: try unsafe adapter.text("adapter name", at: offset), options: texts)
        case SC__WIRE__HANDOVER_KIND__SERVICE.rawValue:
            return .service(name: try unsafe service.text("service name", at: offset))
        default:
            throw .malformed(what: "hand-over of unknown kind \(unsafe kind)", offset: offset)
        }
    }
}
