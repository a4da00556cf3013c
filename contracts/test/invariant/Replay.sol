// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

import {IEscrowBase, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";

/// @notice The escrow's storage rebuilt from its events alone, with arithmetic of its own.
contract Replay {
    struct Model {
        address buyer;
        address provider;
        bytes32 bidHash;
        LeaseState state;
        uint256 rate;
        uint256 usedMs;
        uint256 end;
        uint256 funded;
        uint256 minChargeSeconds;
        uint256 gpuMilli;
        uint24 node;
        uint256 egressPrice;
        uint256 unitPrice;
        uint256 egressMib;
        uint256 units;
        uint256 egressCap;
        uint256 unitsCap;
        uint256 opened; // atoms locked when it opened
        uint256 refunded; // atoms that went back to the buyer, in all
        uint256 released; // as its `Closed` says
    }

    struct Record {
        bytes16 last; // latest lease of the bid
        uint256 leases;
        uint256 spentBefore;
    }

    uint256 private immutable FEE_BPS;

    mapping(address => uint256) public balances;
    mapping(address => uint256) public fees;
    mapping(address => uint256) public withdrawn;
    mapping(address => mapping(uint24 => uint256)) public capacity;
    mapping(address => mapping(uint256 => bool)) public nonces;
    mapping(bytes32 => Record) public records;
    mapping(bytes16 => Model) private _leases;

    error OpenedTwice(bytes16 leaseNo);
    error UnlockedOtherwise(uint256 expected, uint256 said);
    error RefundedOtherwise(uint256 expected, uint256 said);
    error ReleasedOtherwise(uint256 expected, uint256 said);
    error UsageFell(uint256 was, uint256 said);
    error UnknownEvent(bytes32 topic);

    constructor(uint256 feeBps) {
        FEE_BPS = feeBps;
    }

    function lease(bytes16 leaseNo) external view returns (Model memory) {
        return _leases[leaseNo];
    }

    function apply_(Vm.Log calldata log) external {
        bytes32 topic = log.topics[0];
        if (topic == IEscrowBase.Deposited.selector) balances[_address(log.topics[1])] += _word(log.data);
        else if (topic == IEscrowBase.Withdrawn.selector) _withdrawn(log);
        else if (topic == IEscrowBase.FeesCollected.selector) _collected(log);
        else if (topic == IEscrowBase.Opened.selector) _opened(log);
        else if (topic == IEscrowBase.OpenedCounted.selector) _openedCounted(log);
        else if (topic == IEscrowBase.Settled.selector) _settled(log, 21);
        else if (topic == IEscrowBase.SettledMetered.selector) _settled(log, 29);
        else if (topic == IEscrowBase.Stopped.selector) _stopped(log);
        else if (topic == IEscrowBase.Closed.selector) _closed(log);
        else if (topic == IEscrowBase.ClosedCounted.selector) _closedCounted(log);
        else revert UnknownEvent(topic);
    }

    /* EVENTS */

    function _withdrawn(Vm.Log calldata log) private {
        address account = _address(log.topics[1]);
        balances[account] -= _word(log.data);
        withdrawn[account] += _word(log.data);
    }

    function _collected(Vm.Log calldata log) private {
        fees[_address(log.topics[1])] -= _word(log.data);
        balances[_address(log.topics[2])] += _word(log.data);
    }

    function _opened(Vm.Log calldata log) private {
        bytes16 leaseNo = bytes16(log.topics[1]);
        Model storage model = _leases[leaseNo];
        if (model.state != LeaseState.None) revert OpenedTwice(leaseNo);
        (model.buyer, model.provider) = (_address(log.topics[2]), _address(log.topics[3]));
        model.state = LeaseState.Active;
        model.bidHash = bytes32(log.data[64:96]);
        model.rate = uint256(bytes32(log.data[128:160]));
        model.gpuMilli = uint256(bytes32(log.data[160:192]));
        model.node = uint24(uint256(bytes32(log.data[192:224])));
        model.end = uint256(bytes32(log.data[224:256]));
        model.funded = uint256(bytes32(log.data[256:288]));
        model.minChargeSeconds = uint256(bytes32(log.data[288:320]));
        model.opened = uint256(bytes32(log.data[320:352]));
        balances[model.buyer] -= model.opened;
        capacity[model.provider][model.node] += model.gpuMilli;
        nonces[model.buyer][uint256(bytes32(log.data[352:384]))] = true;

        Record storage record = records[model.bidHash];
        if (record.leases > 0) {
            Model storage previous = _leases[record.last];
            record.spentBefore += previous.state == LeaseState.Closed ? _earned(previous) : _full(previous);
        }
        (record.last, record.leases) = (leaseNo, record.leases + 1);
    }

    function _openedCounted(Vm.Log calldata log) private {
        Model storage model = _leases[bytes16(log.topics[1])];
        (model.egressPrice, model.unitPrice, model.egressCap, model.unitsCap) =
            abi.decode(log.data, (uint256, uint256, uint256, uint256));
    }

    function _settled(Vm.Log calldata log, uint256 size) private {
        bytes memory entries = abi.decode(log.data, (bytes));
        for (uint256 i = 0; i < entries.length; i += size) {
            Model storage model = _leases[bytes16(_at(entries, i))];
            uint256 ms = uint256(_at(entries, i + 16)) >> 216;
            (uint256 egressMib, uint256 units) = (model.egressMib, model.units);
            if (size == 29) {
                egressMib = uint256(_at(entries, i + 21)) >> 224;
                units = uint256(_at(entries, i + 25)) >> 224;
            }
            _use(model, ms, egressMib, units);
        }
    }

    function _stopped(Vm.Log calldata log) private {
        Model storage model = _leases[bytes16(log.topics[1])];
        (uint256 end, uint256 unlocked) = abi.decode(log.data, (uint256, uint256));
        uint256 before = _full(model);
        (model.state, model.funded) = (LeaseState.Stopped, model.funded - (model.end - end));
        model.end = end;
        uint256 expected = before - _full(model);
        if (unlocked != expected) revert UnlockedOtherwise(expected, unlocked);
        balances[model.buyer] += unlocked;
        model.refunded += unlocked;
    }

    function _closed(Vm.Log calldata log) private {
        Model storage model = _leases[bytes16(log.topics[1])];
        (uint256 ms, uint256 released, uint256 refunded) = abi.decode(log.data, (uint256, uint256, uint256));
        _use(model, ms, model.egressMib, model.units);
        if (released != _earned(model)) revert ReleasedOtherwise(_earned(model), released);
        if (refunded != _full(model) - released) revert RefundedOtherwise(_full(model) - released, refunded);
        (model.state, model.released) = (LeaseState.Closed, released);
        balances[model.buyer] += refunded;
        model.refunded += refunded;
        capacity[model.provider][model.node] -= model.gpuMilli;
    }

    function _closedCounted(Vm.Log calldata log) private {
        Model storage model = _leases[bytes16(log.topics[1])];
        (uint256 egressMib, uint256 units) = abi.decode(log.data, (uint256, uint256));
        _use(model, model.usedMs, egressMib, units);
    }

    /* ARITHMETIC */

    function _use(Model storage model, uint256 ms, uint256 egressMib, uint256 units) private {
        if (ms < model.usedMs) revert UsageFell(model.usedMs, ms);
        if (egressMib < model.egressMib) revert UsageFell(model.egressMib, egressMib);
        if (units < model.units) revert UsageFell(model.units, units);
        (uint256 time, uint256 things) = (_time(model), _things(model));
        (model.usedMs, model.egressMib, model.units) = (ms, egressMib, units);
        (uint256 newTime, uint256 newThings) = (_time(model), _things(model));
        uint256 fee = _fee(newTime) - _fee(time) + _fee(newThings) - _fee(things);
        balances[model.provider] += newTime - time + newThings - things - fee;
        fees[model.provider] += fee;
    }

    function _fee(uint256 gross) private view returns (uint256) {
        return gross * FEE_BPS / 10_000;
    }

    function _earned(Model storage model) private view returns (uint256) {
        return _time(model) + _things(model);
    }

    function _time(Model storage model) private view returns (uint256) {
        uint256 ms = model.usedMs;
        if (ms > 0 && ms < model.minChargeSeconds * 1000) ms = model.minChargeSeconds * 1000;
        return model.rate * ms * 10 / 36; // rates are 1e-12 token an hour, atoms 1e-18 token: 1e6 to 3.6e6 ms
    }

    function _things(Model storage model) private view returns (uint256) {
        uint256 nano = model.egressPrice * model.egressMib + model.unitPrice * model.units * 1024;
        return nano * 1e9 / 1024;
    }

    function _full(Model storage model) private view returns (uint256) {
        uint256 seconds_ = model.funded > model.minChargeSeconds ? model.funded : model.minChargeSeconds;
        uint256 nano = model.egressPrice * model.egressCap + model.unitPrice * model.unitsCap * 1024;
        return _up(model.rate * seconds_ * 10_000, 36) + _up(nano * 1e9, 1024);
    }

    function _up(uint256 a, uint256 b) private pure returns (uint256) {
        return a / b + (a % b == 0 ? 0 : 1);
    }

    /* READING */

    function _address(bytes32 topic) private pure returns (address) {
        return address(uint160(uint256(topic)));
    }

    function _word(bytes calldata data) private pure returns (uint256) {
        return uint256(bytes32(data));
    }

    function _at(bytes memory data, uint256 offset) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := mload(add(add(data, 0x20), offset))
        }
    }
}
