// Wire messages from Swift values to protobuf.

internal import CSCImage

extension FrameWriter {
    /// Writes an Offer.
    mutating func write(_ offer: Offer, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Wire__Offer()
        unsafe sc__wire__offer__init(&message)
        unsafe (message.has_tool, message.tool) = try arena.optional(offer.tool)
        unsafe message.format_oldest = UInt32(offer.formatVersions.lowerBound)
        unsafe message.format_newest = UInt32(offer.formatVersions.upperBound)
        unsafe (message.has_host, message.host) = try arena.optional(offer.host)
        unsafe (message.n_flows, message.flows) = try (offer.flows.count, arena.lend(offer.flows))
        unsafe (message.has_steering, message.steering) = try arena.optional(offer.steering)
        if let namespace = offer.namespace {
            unsafe (message.has_netns_device, message.netns_device) = (1, namespace.device)
            unsafe (message.has_netns_inode, message.netns_inode) = (1, namespace.inode)
            unsafe (message.has_boot_id, message.boot_id) = try (1, arena.lend(namespace.bootID))
        }
        if let handover = offer.handover { unsafe message.handover = try arena.lend(handover) }
        unsafe (message.has_queue_bytes, message.queue_bytes) = (present(offer.queueBytes != 0), offer.queueBytes)
        unsafe (message.has_state_bytes, message.state_bytes) = (present(offer.stateBytes != 0), offer.stateBytes)
        unsafe (message.has_state_version, message.state_version) = (present(offer.stateVersion != 0), offer.stateVersion)
        unsafe (message.has_deadline_ms, message.deadline_ms) =
            (present(offer.deadlineMilliseconds != 0), offer.deadlineMilliseconds)
        unsafe (message.has_dry_run, message.dry_run) = (present(offer.dryRun), present(offer.dryRun))
        unsafe (message.has_fence, message.fence) = try arena.optional(offer.fence)
        let (locals, localPointers) = try unsafe arena.messages(Sc__Image__LocalChannel.self, offer.locals.count)
        for (index, channel) in offer.locals.enumerated() { try unsafe (locals + index).initialize(to: arena.message(channel)) }
        unsafe (message.n_local_channels, message.local_channels) = (offer.locals.count, localPointers)
        let (processes, processPointers) = try unsafe arena.messages(Sc__Image__Process.self, offer.processes.count)
        for (index, process) in offer.processes.enumerated() { try unsafe (processes + index).initialize(to: arena.message(process)) }
        unsafe (message.n_processes, message.processes) = (offer.processes.count, processPointers)
        let isNamed = present(offer.migration != MigrationID(high: 0, low: 0))
        unsafe (message.has_migration_high, message.migration_high) = (isNamed, offer.migration.high)
        unsafe (message.has_migration_low, message.migration_low) = (isNamed, offer.migration.low)
        try unsafe write(.offer, length: sc__wire__offer__get_packed_size(&message)) {
            unsafe sc__wire__offer__pack(&message, $0)
        }
    }

    /// Writes an Answer.
    mutating func write(_ answer: Answer, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Wire__Answer()
        unsafe sc__wire__answer__init(&message)
        unsafe message.accepted = present(answer.accepted)
        unsafe (message.n_reasons, message.reasons) = try (answer.reasons.count, arena.lend(answer.reasons))
        unsafe (message.has_host, message.host) = try arena.optional(answer.host)
        unsafe (message.n_addresses, message.addresses) =
            try (answer.addresses.count, arena.lend(answer.addresses.map { $0.address.bytes + [$0.length] }))
        unsafe (message.has_returning, message.returning) = (present(answer.isReturning), present(answer.isReturning))
        unsafe (message.has_same_netns, message.same_netns) = (present(answer.isSameNamespace), present(answer.isSameNamespace))
        unsafe (message.n_timings, message.timings) = try (answer.timings.count, arena.lend(answer.timings))
        unsafe (message.has_knows_local_channels, message.knows_local_channels) =
            (present(answer.knowsLocalChannels), present(answer.knowsLocalChannels))
        unsafe (message.has_takes_fewer, message.takes_fewer) = (present(answer.takesFewer), present(answer.takesFewer))
        try unsafe write(.answer, length: sc__wire__answer__get_packed_size(&message)) {
            unsafe sc__wire__answer__pack(&message, $0)
        }
    }

    /// Writes a Report.
    mutating func write(_ report: Report, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Wire__Report()
        unsafe sc__wire__report__init(&message)
        unsafe (message.n_stages, message.stages) = try (report.stages.count, arena.lend(report.stages))
        unsafe (message.n_withdrawn, message.withdrawn) = try (report.withdrawn.count, arena.lend(report.withdrawn, "Report"))
        try unsafe write(.report, length: sc__wire__report__get_packed_size(&message)) {
            unsafe sc__wire__report__pack(&message, $0)
        }
    }

    /// Writes a Failure.
    mutating func write(_ failure: Failure, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Wire__Failure()
        unsafe sc__wire__failure__init(&message)
        unsafe (message.has_what, message.what) = try arena.optional(failure.what)
        unsafe (message.has_why, message.why) = try arena.optional(failure.why)
        unsafe (message.has_advice, message.advice) = try arena.optional(failure.advice)
        unsafe (message.has_errno_value, message.errno_value) = (present(failure.errno != 0), failure.errno)
        unsafe (message.has_needs_recover, message.needs_recover) = (present(failure.needsRecover), present(failure.needsRecover))
        try unsafe write(.failure, length: sc__wire__failure__get_packed_size(&message)) {
            unsafe sc__wire__failure__pack(&message, $0)
        }
    }
}

extension FrameWriter {
    /// Writes a Resolve.
    mutating func write(_ resolve: Resolve, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Wire__Resolve()
        unsafe sc__wire__resolve__init(&message)
        unsafe (message.migration_high, message.migration_low) = (resolve.migration.high, resolve.migration.low)
        try unsafe write(.resolve, length: sc__wire__resolve__get_packed_size(&message)) {
            unsafe sc__wire__resolve__pack(&message, $0)
        }
    }

    /// Writes a Standing.
    mutating func write(_ standing: Standing, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Wire__Standing()
        unsafe sc__wire__standing__init(&message)
        unsafe (message.migration_high, message.migration_low) = (standing.migration.high, standing.migration.low)
        unsafe message.state = standing.state.rawValue
        try unsafe write(.standing, length: sc__wire__standing__get_packed_size(&message)) {
            unsafe sc__wire__standing__pack(&message, $0)
        }
    }

    /// Writes an Inquiry.
    mutating func write(_ inquiry: Inquiry, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Wire__Inquiry()
        unsafe sc__wire__inquiry__init(&message)
        unsafe (message.n_flows, message.flows) = try (inquiry.flows.count, arena.lend(inquiry.flows))
        try unsafe write(.inquiry, length: sc__wire__inquiry__get_packed_size(&message)) {
            unsafe sc__wire__inquiry__pack(&message, $0)
        }
    }

    /// Writes a Living.
    mutating func write(_ living: Living, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Wire__Living()
        unsafe sc__wire__living__init(&message)
        unsafe (message.n_flows, message.flows) = try (living.flows.count, arena.lend(living.flows, "Living"))
        try unsafe write(.living, length: sc__wire__living__get_packed_size(&message)) {
            unsafe sc__wire__living__pack(&message, $0)
        }
    }
}

extension RecordArena {
    /// Numbers of an offer's flows; `message` has them.
    @unsafe fileprivate mutating func lend(_ flows: [Int], _ message: String) throws(ImageError) -> UnsafeMutablePointer<UInt32> {
        let indexes = try unsafe allocate(UInt32.self, flows.count)
        for (place, index) in flows.enumerated() {
            guard let index = UInt32(exactly: index) else { throw .malformed(what: "flow \(index) in a \(message)", offset: nil) }
            unsafe (indexes + place).initialize(to: index)
        }
        return unsafe indexes
    }

    /// A text whose absence means the empty one.
    @unsafe fileprivate mutating func optional(_ text: String) throws(ImageError) -> (protobuf_c_boolean, ProtobufCBinaryData) {
        try unsafe (present(!text.isEmpty), lend(text))
    }

    @unsafe fileprivate mutating func lend(_ values: [[UInt8]]) throws(ImageError) -> UnsafeMutablePointer<ProtobufCBinaryData> {
        let data = try unsafe allocate(ProtobufCBinaryData.self, values.count)
        for (index, value) in values.enumerated() { try unsafe (data + index).initialize(to: lend(value)) }
        return unsafe data
    }

    @unsafe fileprivate mutating func lend(
        _ flows: [Flow]
    ) throws(ImageError) -> UnsafeMutablePointer<UnsafeMutablePointer<Sc__Wire__Flow>?> {
        let (messages, pointers) = try unsafe messages(Sc__Wire__Flow.self, flows.count)
        for (index, flow) in flows.enumerated() {
            unsafe sc__wire__flow__init(messages + index)
            unsafe messages[index].local = try lend(flow.local)
            unsafe messages[index].peer = try lend(flow.peer)
        }
        return unsafe pointers
    }

    @unsafe fileprivate mutating func lend(
        _ timings: [Timing]
    ) throws(ImageError) -> UnsafeMutablePointer<UnsafeMutablePointer<Sc__Wire__Timing>?> {
        let (messages, pointers) = try unsafe messages(Sc__Wire__Timing.self, timings.count)
        for (index, timing) in timings.enumerated() {
            unsafe sc__wire__timing__init(messages + index)
            unsafe messages[index].stage = try lend(timing.stage)
            unsafe (messages[index].start_ns, messages[index].duration_ns) = (timing.startNanoseconds, timing.durationNanoseconds)
        }
        return unsafe pointers
    }

    @unsafe fileprivate mutating func lend(
        _ reasons: [Reason]
    ) throws(ImageError) -> UnsafeMutablePointer<UnsafeMutablePointer<Sc__Wire__Reason>?> {
        let (messages, pointers) = try unsafe messages(Sc__Wire__Reason.self, reasons.count)
        for (index, reason) in reasons.enumerated() {
            let message = unsafe messages + index
            unsafe sc__wire__reason__init(message)
            if let flow = reason.flow {
                guard let flow = UInt32(exactly: flow) else { throw .malformed(what: "reason about flow \(flow)", offset: nil) }
                unsafe (message.pointee.has_flow, message.pointee.flow) = (1, flow)
            }
            unsafe (message.pointee.has_what, message.pointee.what) = try optional(reason.what)
            unsafe (message.pointee.has_why, message.pointee.why) = try optional(reason.why)
            unsafe (message.pointee.has_advice, message.pointee.advice) = try optional(reason.advice)
            unsafe (message.pointee.has_errno_value, message.pointee.errno_value) = (present(reason.errno != 0), reason.errno)
        }
        return unsafe pointers
    }

    @unsafe fileprivate mutating func lend(_ handover: Handover) throws(ImageError) -> UnsafeMutablePointer<Sc__Wire__Handover> {
        let message = try unsafe allocate(Sc__Wire__Handover.self, 1)
        unsafe sc__wire__handover__init(message)
        switch handover {
        case .exec(let arguments):
            unsafe message.pointee.kind = SC__WIRE__HANDOVER_KIND__EXEC.rawValue
            unsafe (message.pointee.n_argv, message.pointee.argv) = try (arguments.count, lend(arguments))
        case .into(let path):
            unsafe message.pointee.kind = SC__WIRE__HANDOVER_KIND__INTO.rawValue
            unsafe (message.pointee.has_path, message.pointee.path) = try (1, lend(path))
        case .onto(let pid, let adapter, let options):
            unsafe message.pointee.kind = SC__WIRE__HANDOVER_KIND__ONTO.rawValue
            unsafe (message.pointee.has_pid, message.pointee.pid) = (1, pid)
            unsafe (message.pointee.has_adapter, message.pointee.adapter) = try (1, lend(adapter))
            unsafe (message.pointee.n_options, message.pointee.options) = try (options.count, lend(options.map { Array($0.utf8) }))
        case .service(let name):
            unsafe message.pointee.kind = SC__WIRE__HANDOVER_KIND__SERVICE.rawValue
            unsafe (message.pointee.has_service, message.pointee.service) = try (1, lend(name))
        }
        return unsafe message
    }
}
