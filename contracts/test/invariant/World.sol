// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

import {Counted, Lease, LeaseKey, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {Actors} from "./Actors.sol";
import {Replay} from "./Replay.sol";

/// @notice What the actors know of the escrow, and what is looked at after every action: the leases it was about, every
/// balance, the node's capacity.
/// @dev An action names beforehand whose money it may move and which leases it is about. What it did not name is looked
/// at as well: balances after the action, leases at the end of the course, where each must be as it was last seen.
abstract contract World is Actors {
    /// @dev A lease: the orders that it came from, and as it was last seen.
    struct Known {
        address buyer;
        address provider;
        address witness;
        address meter;
        bytes16 leaseNo;
        uint16 seat;
        bytes32 bidHash;
        bytes32 askHash;
        bytes32 pricesHash;
        uint256 previous; // index of the lease that it followed + 1
        bool again; // the buyer's side said that the seat may open once more
        uint256 addedSeconds; // by top-ups
        bytes bid; // encoded
        bytes ask; // encoded
        Lease seen;
        Counted counted;
    }

    /// @dev A seat of a bid. `spent`: what the leases before its latest cost at most.
    struct Seat {
        uint256 latest; // index of the lease + 1
        uint256 spent;
    }

    uint256 internal constant NODES = 2;
    uint256 internal constant NODE_GPU_MILLI = 4000;

    Replay public immutable REPLAY;
    uint256 internal immutable SCALE;

    Known[] internal _known;
    mapping(bytes16 leaseNo => uint256 index) internal _indexes; // + 1
    mapping(bytes32 bidHash => mapping(uint16 seat => Seat)) internal _seats;
    mapping(address provider => mapping(uint24 node => uint256)) internal _reserved;

    mapping(bytes32 action => uint256) public succeeded;
    mapping(bytes32 action => uint256) public refused;

    uint256 public donated;
    mapping(address account => uint256) public deposited;
    mapping(address account => uint256) public withdrawn;
    mapping(address provider => uint256) public collected;
    mapping(address account => uint256) public received; // tokens, outside
    mapping(address account => int256) public given; // by other accounts, less what it gave: purses, fees of relays

    uint256 private _owedToAccounts;
    uint256 private _owedForLeases;
    mapping(address account => uint256) internal _balances; // as last seen
    mapping(address provider => uint256) internal _fees; // as last seen

    /* One action's */
    uint256 private _turn;
    mapping(address account => uint256 turn) private _involved;
    uint256[] private _touched;
    bool private _extends; // a top-up, the one action that moves an end on

    error ShouldHaveBeen(bool expected, bytes32 action);
    error MovedUninvolved(address account, uint256 was, uint256 is_);
    error SaidOtherwise(address account, uint256 said, uint256 is_);
    error IllegalTransition(LeaseState from, LeaseState to);
    error TermsMoved(bytes16 leaseNo);
    error MarkedOtherwise(bytes16 leaseNo, bool said);
    error UsageMoved(bytes16 leaseNo, uint256 was, uint256 is_);
    error CapacityMoved(address provider, uint24 node, uint256 expected, uint256 is_);

    constructor() {
        REPLAY = new Replay(ESCROW.feeBps(), 10 ** TOKEN.decimals());
        SCALE = 10 ** TOKEN.decimals();
        vm.recordLogs();
    }

    /* WHAT TESTS READ */

    function count() external view returns (uint256) {
        return _known.length;
    }

    function known(uint256 i) external view returns (Known memory) {
        return _known[i];
    }

    /// @notice What the escrow owes in all, donations included.
    function owed() external view returns (uint256) {
        return _owedToAccounts + _owedForLeases + donated;
    }

    /* AROUND EVERY ACTION */

    modifier acting(uint256 seed) {
        _sow(seed);
        _turn++;
        _;
        _end();
    }

    function _end() private {
        for (uint256 i = 0; i < _touched.length; i++) {
            _look(_known[_touched[i]]);
        }
        for (uint256 i = 0; i < _touched.length; i++) {
            _lookAtCapacity(_known[_touched[i]]); // several may have left one node
        }
        delete _touched;
        _extends = false;
        _lookAtBalances();
    }

    /// @dev The action may move this account's balance.
    function _involve(address account) internal {
        _involved[account] = _turn;
    }

    /// @dev The action is about this lease: if it `may` succeed, buyer's and provider's balances may move.
    function _touch(uint256 index, bool may) internal {
        _touched.push(index);
        if (!may) return;
        _involve(_known[index].buyer);
        _involve(_known[index].provider);
    }

    function _mayExtend() internal {
        _extends = true;
    }

    /// @dev Makes a call that must succeed as `expected` says.
    function _do(bytes32 action, bool expected, address sender, bytes memory data) internal returns (bytes memory) {
        return _doAt(address(ESCROW), action, expected, sender, data);
    }

    function _doAt(address to, bytes32 action, bool expected, address sender, bytes memory data)
        internal
        returns (bytes memory answer)
    {
        bool ok;
        vm.prank(sender);
        (ok, answer) = to.call(data);
        _must(action, expected, ok);
        Vm.Log[] memory logs = vm.getRecordedLogs(); // those of a call that failed are recorded, too
        if (ok) REPLAY.read(address(ESCROW), logs);
    }

    function _must(bytes32 action, bool expected, bool ok) internal {
        if (ok != expected) revert ShouldHaveBeen(expected, action);
        if (ok) succeeded[action]++;
        else refused[action]++;
    }

    /* LOOKING */

    /// @dev Sees the lease anew. What may not change has not, and what may has done so along the table of states.
    function _look(Known storage k) private {
        Lease memory was = k.seen;
        Lease memory now_ = ESCROW.lease(_keyOf(k));
        _requireLegal(was, now_);
        if (was.state != LeaseState.None) _requireSameTerms(k.leaseNo, was, now_);
        if (now_.again != k.again) revert MarkedOtherwise(k.leaseNo, now_.again);
        _lookAtUsage(k, was, now_);
        bool leaves = was.state == LeaseState.Active && now_.state != LeaseState.Active;
        if (leaves) _reserved[k.provider][now_.node] -= now_.gpuMilli;
        _owedForLeases = _owedForLeases + now_.locked - was.locked;
        k.seen = now_;
    }

    function _lookAtCapacity(Known storage k) private view {
        (address provider, uint24 node) = (k.provider, k.seen.node);
        (uint256 used, uint256 expected) = (ESCROW.capacityUsed(provider, node), _reserved[provider][node]);
        if (used != expected) revert CapacityMoved(provider, node, expected, used);
    }

    function _requireLegal(Lease memory was, Lease memory now_) private pure {
        LeaseState[] memory next = new LeaseState[](3);
        if (was.state == LeaseState.None) next[0] = LeaseState.Active;
        else (next[0], next[1]) = (was.state, LeaseState.Closed);
        if (was.state == LeaseState.Active) next[2] = LeaseState.Stopped;
        bool legal = false;
        for (uint256 i = 0; i < 3; i++) {
            legal = legal || (next[i] == now_.state && now_.state != LeaseState.None);
        }
        if (!legal) revert IllegalTransition(was.state, now_.state);
        if (now_.state == LeaseState.Closed && now_.locked != 0) revert IllegalTransition(was.state, now_.state);
    }

    /// @dev Terms stay, but for these: a stop brings the end forward to now, and takes from the start seconds first; a
    /// top-up adds paid seconds.
    function _requireSameTerms(bytes16 leaseNo, Lease memory was, Lease memory now_) private view {
        (uint256 end, uint256 startSeconds) = (was.end, was.startSeconds);
        if (was.state == LeaseState.Active && now_.state == LeaseState.Stopped) {
            end = _least(end, vm.getBlockTimestamp());
            startSeconds -= _least(startSeconds, was.end - end);
        }
        bool extended = _extends && now_.state == LeaseState.Active && now_.end > end;
        bool same = now_.start == was.start && now_.rate == was.rate && now_.gpuMilli == was.gpuMilli
            && now_.node == was.node && now_.hasCounted == was.hasCounted && now_.startSeconds == startSeconds
            && now_.start + now_.fundedSeconds == now_.end;
        if (!same || (now_.end != end && !extended)) revert TermsMoved(leaseNo);
    }

    /// @dev Usage never falls, and rests once the lease is closed.
    function _lookAtUsage(Known storage k, Lease memory was, Lease memory now_) private {
        Counted memory before = k.counted;
        Counted memory counted = ESCROW.counted(_keyOf(k));
        bool rests = was.state != LeaseState.None && !_isOpen(was);
        bool fell = now_.usedMs < was.usedMs || now_.released < was.released || counted.egressMib < before.egressMib
            || counted.units < before.units;
        bool moved = now_.usedMs != was.usedMs || counted.egressMib != before.egressMib || counted.units != before.units
            || (was.state == LeaseState.Closed && now_.released != was.released);
        if (fell || (rests && moved)) revert UsageMoved(k.leaseNo, was.usedMs, now_.usedMs);
        k.counted = counted;
    }

    function _lookAtBalances() private {
        address[] memory all = accounts();
        uint256 sum = 0;
        for (uint256 i = 0; i < all.length; i++) {
            (uint256 was, uint256 is_) = (_balances[all[i]], ESCROW.balanceOf(all[i]));
            sum += is_;
            if (was == is_) continue;
            if (_involved[all[i]] != _turn) revert MovedUninvolved(all[i], was, is_);
            if (REPLAY.balances(all[i]) != is_) revert SaidOtherwise(all[i], REPLAY.balances(all[i]), is_);
            _balances[all[i]] = is_;
        }
        for (uint256 i = 0; i < PROVIDERS; i++) {
            (uint256 was, uint256 is_) = (_fees[providers[i]], ESCROW.feesOf(providers[i]));
            sum += is_;
            if (was == is_) continue;
            if (_involved[providers[i]] != _turn) revert MovedUninvolved(providers[i], was, is_);
            _fees[providers[i]] = is_;
        }
        _owedToAccounts = sum;
    }

    /* TIME */

    /// @dev Once in `n` it is the last second of something, or the first one after it, if that is not far off.
    function _edge(uint256 n, uint256 last) internal {
        uint256 time = vm.getBlockTimestamp();
        if (_once(n) && time <= last && last < time + 3 hours) vm.warp(last + _draw(2));
    }

    /* LEASES */

    function _isOpen(Lease memory lease) internal pure returns (bool) {
        return lease.state == LeaseState.Active || lease.state == LeaseState.Stopped;
    }

    /// @dev Any lease; three times out of four one in a state that the set (bit n: state n) holds, if there is one.
    function _pick(uint256 states) internal returns (uint256) {
        uint256 first = _draw(_known.length);
        if (_once(4)) return first;
        for (uint256 i = 0; i < _known.length; i++) {
            uint256 index = (first + i) % _known.length;
            if ((states >> uint256(_known[index].seen.state)) & 1 == 1) return index;
        }
        return first;
    }

    function _set(LeaseState state) internal pure returns (uint256) {
        return 1 << uint256(state);
    }

    function _openSet() internal pure returns (uint256) {
        return _set(LeaseState.Active) | _set(LeaseState.Stopped);
    }

    function _keyOf(Known storage k) internal view returns (LeaseKey memory) {
        return LeaseKey(k.buyer, k.provider, k.witness, k.leaseNo);
    }

    function _termsHash(Known storage k) internal view returns (bytes32) {
        return keccak256(abi.encode(k.bidHash, k.askHash, k.pricesHash, k.seat));
    }

    /// @dev A time that a witness may sign: within the time since the start, the same or less as before, or ahead.
    function _someMs(Lease memory lease) internal returns (uint256) {
        if (lease.state == LeaseState.None) return 0;
        uint256 elapsed = (vm.getBlockTimestamp() - lease.start) * 1000;
        uint256 how = _draw(8);
        if (how == 0) return elapsed + 1 + _draw(100_000);
        if (how == 1) return elapsed;
        if (how == 2) return lease.usedMs;
        if (how == 3) return _draw(lease.usedMs + 1);
        if (how == 4) return uint256(lease.fundedSeconds - (_once(2) ? lease.startSeconds : 0)) * 1000 + _draw(3);
        return lease.usedMs + _draw(elapsed > lease.usedMs ? elapsed - lease.usedMs + 1 : 1);
    }

    /* ARITHMETIC: the escrow's, written once more */

    function _up(uint256 a, uint256 b) internal pure returns (uint256) {
        return a / b + (a % b == 0 ? 0 : 1);
    }

    /// @dev Most that time costs.
    function _fullTime(uint256 rate, uint256 paidSeconds) internal view returns (uint256) {
        return _up(rate * paidSeconds * 1000 * SCALE, 3.6e18);
    }

    function _paidSeconds(Lease memory lease) internal pure returns (uint256) {
        return lease.fundedSeconds - lease.startSeconds;
    }

    /// @dev Most that the counted resources cost.
    function _fullCounted(Counted memory c) internal view returns (uint256) {
        return _up((uint256(c.egressGib) * c.egressMibCap + uint256(c.unit) * c.unitsCap * 1024) * SCALE, 1024e9);
    }
}
