// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

import {IEscrowBase, LeaseState, LeaseTerms, Purse} from "../../src/interfaces/IComputeEscrow.sol";

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
        uint256 startSeconds; // of which: neither locked nor paid
        bool again;
        uint256 gpuMilli;
        uint24 node;
        uint256 egressPrice;
        uint256 unitPrice;
        uint256 egressMib;
        uint256 units;
        uint256 egressCap;
        uint256 unitsCap;
        uint256 opened; // atoms locked when it opened and by top-ups
        uint256 refunded; // atoms of the lock that went back to the buyer, in all
    }

    /// @dev A seat of a bid.
    struct Record {
        bytes16 last; // its latest lease
        uint256 leases;
        uint256 spentBefore;
    }

    uint256 private immutable FEE_BPS;
    uint256 private immutable SCALE; // atoms of one token

    mapping(address => uint256) public balances;
    mapping(address => uint256) public fees;
    mapping(address => uint256) public withdrawn;
    mapping(address => mapping(uint24 => uint256)) public capacity;
    mapping(address => mapping(uint256 kind => mapping(uint256 salt => bool))) public used;
    mapping(address => mapping(uint256 kind => mapping(uint256 salt => bool))) private _cancelled;
    mapping(address => mapping(uint256 kind => uint256)) public saltsFrom;
    mapping(address => Purse) private _purses;
    mapping(bytes32 => mapping(uint256 => Record)) public records;
    mapping(bytes16 => Model) private _leases;

    error OpenedTwice(bytes16 leaseNo);
    error UnlockedOtherwise(uint256 expected, uint256 said);
    error RefundedOtherwise(uint256 expected, uint256 said);
    error ReleasedOtherwise(uint256 expected, uint256 said);
    error LockedOtherwise(uint256 expected, uint256 said);
    error MarkedTwice(bytes16 leaseNo);
    error UsedTwice(address account, uint256 salt);
    error NotTheOwner(address purse, address said);
    error UsageFell(uint256 was, uint256 said);
    error UnknownEvent(bytes32 topic);

    constructor(uint256 feeBps, uint256 scale) {
        (FEE_BPS, SCALE) = (feeBps, scale);
    }

    function lease(bytes16 leaseNo) external view returns (Model memory) {
        return _leases[leaseNo];
    }

    function purse(address account) external view returns (Purse memory) {
        return _purses[account];
    }

    function cancelled(address account, uint256 kind, uint256 salt) external view returns (bool) {
        return _cancelled[account][kind][salt] || salt < saltsFrom[account][kind];
    }

    /// @notice Reads what the escrow said, in order.
    function read(address escrow, Vm.Log[] calldata logs) external {
        for (uint256 i = 0; i < logs.length; i++) {
            if (logs[i].emitter == escrow) _read(logs[i]);
        }
    }

    function _read(Vm.Log calldata log) private {
        bytes32 topic = log.topics[0];
        if (topic == IEscrowBase.Deposited.selector) balances[_address(log.topics[1])] += _word(log.data);
        else if (topic == IEscrowBase.Withdrawn.selector) _withdrawn(log);
        else if (topic == IEscrowBase.FeesCollected.selector) _collected(log);
        else if (topic == IEscrowBase.Cancelled.selector) _saltCancelled(log);
        else if (topic == IEscrowBase.Relayed.selector) _relayed(log);
        else if (topic == IEscrowBase.Opened.selector) _opened(log);
        else if (topic == IEscrowBase.OpenedCounted.selector) _openedCounted(log);
        else if (topic == IEscrowBase.ToppedUp.selector) _toppedUp(log);
        else if (topic == IEscrowBase.Settled.selector) _settled(log, 21);
        else if (topic == IEscrowBase.SettledMetered.selector) _settled(log, 29);
        else if (topic == IEscrowBase.Stopped.selector) _stopped(log);
        else if (topic == IEscrowBase.MarkedAgain.selector) _marked(log);
        else if (topic == IEscrowBase.ClosedCounted.selector) _closedCounted(log);
        else if (topic == IEscrowBase.Closed.selector) _closed(log);
        else _readOfPurse(topic, log);
    }

    function _readOfPurse(bytes32 topic, Vm.Log calldata log) private {
        (address account, address owner) = (_address(log.topics[1]), _purses[_address(log.topics[1])].owner);
        if (topic == IEscrowBase.PurseCreated.selector) return _created(log);
        if (topic == IEscrowBase.PurseExpiryMoved.selector) {
            _purses[account].expiry = uint40(_word(log.data));
            return;
        }
        if (topic == IEscrowBase.PurseFunded.selector) _move(owner, account, _word(log.data));
        else if (topic == IEscrowBase.PurseSwept.selector) _move(account, owner, _word(log.data));
        else revert UnknownEvent(topic);
        if (owner != _address(log.topics[2])) revert NotTheOwner(account, _address(log.topics[2]));
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

    function _saltCancelled(Vm.Log calldata log) private {
        (address account, uint256 kind) = (_address(log.topics[1]), uint256(log.topics[2]));
        (uint256 salt, bool andOlder) = abi.decode(log.data, (uint256, bool));
        if (!andOlder) _cancelled[account][kind][salt] = true;
        else if (saltsFrom[account][kind] <= salt) saltsFrom[account][kind] = salt + 1;
    }

    function _relayed(Vm.Log calldata log) private {
        address account = _address(log.topics[1]);
        (uint256 salt, uint256 fee) = abi.decode(log.data, (uint256, uint256));
        if (used[account][1][salt]) revert UsedTwice(account, salt);
        used[account][1][salt] = true;
        _move(account, _address(log.topics[2]), fee);
    }

    function _created(Vm.Log calldata log) private {
        (, uint40 expiry) = abi.decode(log.data, (uint64, uint40));
        _purses[_address(log.topics[1])] = Purse(_address(log.topics[2]), expiry, _address(log.topics[3]));
    }

    function _move(address from, address to, uint256 amount) private {
        balances[from] -= amount;
        balances[to] += amount;
    }

    function _opened(Vm.Log calldata log) private {
        bytes16 leaseNo = bytes16(log.topics[1]);
        Model storage model = _leases[leaseNo];
        if (model.state != LeaseState.None) revert OpenedTwice(leaseNo);
        (model.buyer, model.provider) = (_address(log.topics[2]), _address(log.topics[3]));
        LeaseTerms memory terms = abi.decode(log.data, (LeaseTerms));
        model.state = LeaseState.Active;
        (model.bidHash, model.rate) = (terms.bidHash, terms.rate);
        (model.gpuMilli, model.node) = (terms.gpuMilli, terms.node);
        (model.end, model.funded, model.startSeconds) = (terms.end, terms.funded, terms.startSeconds);
        model.opened = terms.locked;
        balances[model.buyer] -= model.opened;
        capacity[model.provider][model.node] += model.gpuMilli;
        used[model.buyer][0][terms.bidSalt] = true;

        Record storage record = records[model.bidHash][terms.seat];
        if (record.leases > 0) record.spentBefore += _most(_leases[record.last]);
        (record.last, record.leases) = (leaseNo, record.leases + 1);
    }

    function _openedCounted(Vm.Log calldata log) private {
        Model storage model = _leases[bytes16(log.topics[1])];
        (model.egressPrice, model.unitPrice, model.egressCap, model.unitsCap) =
            abi.decode(log.data, (uint256, uint256, uint256, uint256));
    }

    function _toppedUp(Vm.Log calldata log) private {
        Model storage model = _leases[bytes16(log.topics[1])];
        (uint256 end, uint256 locked) = abi.decode(log.data, (uint256, uint256));
        uint256 before = _full(model);
        (model.funded, model.end) = (model.funded + end - model.end, end);
        if (locked != _full(model) - before) revert LockedOtherwise(_full(model) - before, locked);
        balances[model.buyer] -= locked;
        model.opened += locked;
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
        uint256 cut = model.end - end;
        (model.state, model.end, model.funded) = (LeaseState.Stopped, end, model.funded - cut);
        model.startSeconds -= cut < model.startSeconds ? cut : model.startSeconds;
        capacity[model.provider][model.node] -= model.gpuMilli;
        uint256 expected = before - _full(model);
        if (unlocked != expected) revert UnlockedOtherwise(expected, unlocked);
        balances[model.buyer] += unlocked;
        model.refunded += unlocked;
    }

    function _marked(Vm.Log calldata log) private {
        bytes16 leaseNo = bytes16(log.topics[1]);
        if (_leases[leaseNo].again) revert MarkedTwice(leaseNo);
        _leases[leaseNo].again = true;
    }

    function _closedCounted(Vm.Log calldata log) private {
        Model storage model = _leases[bytes16(log.topics[1])];
        (uint256 egressMib, uint256 units) = abi.decode(log.data, (uint256, uint256));
        _use(model, model.usedMs, egressMib, units);
    }

    function _closed(Vm.Log calldata log) private {
        Model storage model = _leases[bytes16(log.topics[1])];
        (uint256 ms, uint256 released, uint256 refunded) = abi.decode(log.data, (uint256, uint256, uint256));
        _use(model, ms, model.egressMib, model.units);
        if (released != _earned(model)) revert ReleasedOtherwise(_earned(model), released);
        if (refunded != _full(model) - released) revert RefundedOtherwise(_full(model) - released, refunded);
        if (model.state == LeaseState.Active) capacity[model.provider][model.node] -= model.gpuMilli;
        model.state = LeaseState.Closed;
        balances[model.buyer] += refunded;
        model.refunded += refunded;
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

    /// @dev Rates are 1e-12 token an hour of 3.6e6 ms.
    function _cost(uint256 rateMs) private view returns (uint256) {
        return rateMs * SCALE / 3.6e18;
    }

    /// @dev Most that the lease comes to in the end: its lock while it is open, then what it earned.
    function _most(Model storage model) private view returns (uint256) {
        bool isOpen = model.state == LeaseState.Active || model.state == LeaseState.Stopped;
        return isOpen ? _full(model) : _earned(model);
    }

    function _earned(Model storage model) private view returns (uint256) {
        return _time(model) + _things(model);
    }

    function _time(Model storage model) private view returns (uint256) {
        return _cost(model.rate * model.usedMs);
    }

    function _things(Model storage model) private view returns (uint256) {
        uint256 nano = model.egressPrice * model.egressMib + model.unitPrice * model.units * 1024;
        return nano * SCALE / 1024e9;
    }

    function _full(Model storage model) private view returns (uint256) {
        uint256 nano = model.egressPrice * model.egressCap + model.unitPrice * model.unitsCap * 1024;
        return _up(model.rate * (model.funded - model.startSeconds) * 1000 * SCALE, 3.6e18) + _up(nano * SCALE, 1024e9);
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
