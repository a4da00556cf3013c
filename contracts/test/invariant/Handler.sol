// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CommonBase} from "forge-std/Base.sol";
import {StdUtils} from "forge-std/StdUtils.sol";
import {Vm} from "forge-std/Vm.sol";

import {ComputeToken} from "../../src/ComputeToken.sol";
import {
    Ask,
    Bid,
    CloseData,
    Counted,
    IComputeEscrow,
    Lease,
    LeaseState,
    Match,
    Previous,
    Prices,
    TierLimit
} from "../../src/interfaces/IComputeEscrow.sol";
import {TypedData} from "../support/TypedData.sol";
import {Replay} from "./Replay.sol";

/// @notice Honest and malicious actors. Each action says whether the escrow must go along, and reverts where it does not.
contract Handler is CommonBase, StdUtils {
    struct Actor {
        address account;
        uint256 key;
    }

    /// @dev What the actors remember of a lease.
    struct Known {
        address buyer;
        uint256 buyerIndex;
        address provider;
        address witness;
        uint256 witnessKey;
        uint256 meterKey;
        bytes16 leaseNo;
        bytes32 bidHash;
        bytes32 askHash;
        bytes bid; // encoded
        uint24 node;
        uint256 budget;
        uint256 usedMs; // as last seen
        uint256 released; // as last seen
        bool closed;
    }

    bytes32 private constant TIER = "H100";
    uint256 private constant NODES = 2;
    uint256 private constant NODE_GPU_MILLI = 4000;

    ComputeToken private immutable TOKEN;
    IComputeEscrow private immutable ESCROW;
    Replay public immutable REPLAY;

    Actor[3] public buyers;
    Actor[2] public providers;
    Actor[2] public meters;
    Actor[2] public witnesses;
    Actor public stranger;
    address public feeRecipient;

    Known[] private _known;
    bytes[] private _vouchers; // settle's, each a run of one
    bytes[] private _meteredVouchers;
    uint64 private _salt;

    uint256 public donated;
    uint256 public deposited;
    uint256 public withdrawn;
    mapping(bytes32 action => uint256) public succeeded;

    error ShouldHaveBeen(bool expected, bytes32 action);
    error UsageMoved(bytes16 leaseNo, uint256 was, uint256 is_);
    error BalanceMoved(address account, uint256 was, uint256 is_);

    constructor(ComputeToken token, IComputeEscrow escrow, address feeRecipient_) {
        (TOKEN, ESCROW, feeRecipient) = (token, escrow, feeRecipient_);
        REPLAY = new Replay(escrow.feeBps());
        for (uint256 i = 0; i < 3; i++) {
            buyers[i] = _actor("buyer", i);
        }
        for (uint256 i = 0; i < 2; i++) {
            (providers[i], meters[i], witnesses[i]) = (_actor("provider", i), _actor("meter", i), _actor("witness", i));
        }
        stranger = _actor("stranger", 0);
        vm.recordLogs();
    }

    function _actor(string memory name, uint256 index) private pure returns (Actor memory) {
        uint256 key = uint256(keccak256(abi.encode(name, index)));
        return Actor(vm.addr(key), key);
    }

    /* WHAT TESTS READ */

    function count() external view returns (uint256) {
        return _known.length;
    }

    function known(uint256 i) external view returns (Known memory) {
        return _known[i];
    }

    /// @notice Everyone who may have a balance.
    function accounts() public view returns (address[] memory all) {
        all = new address[](7);
        for (uint256 i = 0; i < 3; i++) {
            all[i] = buyers[i].account;
        }
        (all[3], all[4]) = (providers[0].account, providers[1].account);
        (all[5], all[6]) = (stranger.account, feeRecipient);
    }

    /* AROUND EVERY ACTION */

    modifier acting(bytes32 action) {
        _;
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; i++) {
            if (logs[i].emitter == address(ESCROW)) REPLAY.apply_(logs[i]);
        }
        for (uint256 i = 0; i < _known.length; i++) {
            _look(_known[i]);
        }
    }

    /// @dev Remembers a lease's usage; it may not have fallen, nor have moved where the lease is closed.
    function _look(Known storage k) private {
        Lease memory lease = _lease(k);
        if (lease.usedMs < k.usedMs || lease.released < k.released || (k.closed && lease.released != k.released)) {
            revert UsageMoved(k.leaseNo, k.usedMs, lease.usedMs);
        }
        if (k.closed && lease.state != LeaseState.Closed) revert UsageMoved(k.leaseNo, k.usedMs, lease.usedMs);
        (k.usedMs, k.released, k.closed) = (lease.usedMs, lease.released, lease.state == LeaseState.Closed);
    }

    function _must(bool expected, bool ok, bytes32 action) private {
        if (ok != expected) revert ShouldHaveBeen(expected, action);
        if (ok) succeeded[action]++;
    }

    function _call(address sender, bytes memory data) private returns (bool ok) {
        vm.prank(sender);
        (ok,) = address(ESCROW).call(data);
    }

    function _pick(uint256 seed) private view returns (Known storage) {
        return _known[seed % _known.length];
    }

    function _lease(Known storage k) private view returns (Lease memory) {
        return ESCROW.lease(k.buyer, k.provider, k.witness, k.leaseNo);
    }

    function _isOpen(Lease memory lease) private pure returns (bool) {
        return lease.state == LeaseState.Active || lease.state == LeaseState.Stopped;
    }

    function _compact(uint256 key, bytes32 structHash) private view returns (bytes32 r, bytes32 vs) {
        return vm.signCompact(key, TypedData.digest(TypedData.domain(block.chainid, address(ESCROW)), structHash));
    }

    function _sign(uint256 key, bytes32 structHash) private view returns (bytes memory) {
        bytes32 domain = TypedData.domain(block.chainid, address(ESCROW));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, TypedData.digest(domain, structHash));
        return abi.encodePacked(r, s, v);
    }

    /* FUNDS AND TIME */

    function deposit(uint256 who, uint256 amount) external acting("deposit") {
        address account = accounts()[who % 7];
        amount = bound(amount, 1, 1000e18);
        TOKEN.transfer(account, amount);
        vm.prank(account);
        TOKEN.approve(address(ESCROW), amount);
        _must(true, _call(account, abi.encodeCall(ESCROW.deposit, (amount))), "deposit");
        deposited += amount;
    }

    function withdraw(uint256 who, uint256 amount) external acting("withdraw") {
        address account = accounts()[who % 7];
        uint256 free = ESCROW.balanceOf(account);
        amount = bound(amount, 1, free + free / 8 + 1);
        bool ok = _call(account, abi.encodeCall(ESCROW.withdraw, (account, amount)));
        _must(amount <= free, ok, "withdraw");
        if (ok) withdrawn += amount;
    }

    function collectFees() external acting("collectFees") {
        address[] memory from = new address[](2);
        (from[0], from[1]) = (providers[0].account, providers[1].account);
        _must(true, _call(stranger.account, abi.encodeCall(ESCROW.collectFees, (from))), "collectFees");
    }

    function donate(uint256 amount) external acting("donate") {
        amount = bound(amount, 1, 10e18);
        TOKEN.transfer(address(ESCROW), amount);
        donated += amount;
    }

    function wait_(uint256 seconds_) external acting("wait") {
        vm.warp(vm.getBlockTimestamp() + bound(seconds_, 1, 40 minutes));
    }

    /* OPENING */

    function open(uint256 seed, uint256 price, uint256 seconds_) external acting("open") {
        uint256 buyer = seed % 3;
        Bid memory bid = _newBid(seed, seconds_);
        Ask memory ask = _newAsk(seed >> 8, price);
        _tryOpen(ask, bid, buyer, Previous(address(0), 0, address(0)), true);
        if (seed % 7 == 0) _tryOpen(ask, bid, buyer, Previous(address(0), 0, address(0)), false); // never again
    }

    /// @dev Moves a bid on from one of its leases, be it the latest or not, ended or not.
    function follow(uint256 seed, uint256 price) external acting("follow") {
        if (_known.length == 0) return;
        Known memory k = _pick(seed);
        Bid memory bid = abi.decode(k.bid, (Bid));
        (bytes16 latest,) = ESCROW.bidRecord(k.bidHash, 0);
        Lease memory lease = ESCROW.lease(k.buyer, k.provider, k.witness, k.leaseNo);
        bool may = (latest == 0 || latest == k.leaseNo)
            && (lease.state == LeaseState.Closed || vm.getBlockTimestamp() >= lease.end);
        Previous memory previous = Previous(k.provider, k.askHash, vm.addr(k.meterKey));
        _tryOpen(_newAsk(seed >> 8, price), bid, k.buyerIndex, previous, may);
    }

    function _newBid(uint256 seed, uint256 seconds_) private returns (Bid memory bid) {
        bid.buyer = buyers[seed % 3].account;
        bid.witness = witnesses[seed % 2].account;
        bid.limits = new TierLimit[](1);
        bid.limits[0] = TierLimit(TIER, type(uint64).max, type(uint64).max, type(uint64).max);
        bid.gpuMilli = [uint32(250), 1000, 2000, 3000][(seed >> 16) % 4];
        bid.flags = 1;
        bid.maxSeconds = uint32(bound(seconds_, 60, 2 hours));
        bid.budget = uint128(bound(seed >> 24, 1, 200)) * 0.1e18 + uint64(seed);
        if (seed % 5 < 2) (bid.egressMib, bid.units, bid.unit) = (uint32(seed % 4096), uint32(seed % 999), "unit");
        bid.nodes = 1;
        bid.maxFeeBps = 1000;
        bid.expiry = type(uint40).max;
        bid.salt = ++_salt;
    }

    function _newAsk(uint256 seed, uint256 price) private returns (Ask memory ask) {
        ask.provider = providers[seed % 2].account;
        ask.meter = meters[seed % 2].account;
        ask.node = uint24((seed >> 1) % NODES);
        ask.tier = TIER;
        ask.gpuMilli = uint32(NODE_GPU_MILLI);
        ask.floor = Prices(uint64(bound(price, 0, 10e9)), 0, 0, 0, uint64(price % 1e9), uint64(price % 7e6));
        ask.maxSeconds = 1 days;
        ask.minChargeSeconds = uint16(seed % 3 == 0 ? seed % 60 : 0);
        ask.startLimitSeconds = uint32(seed % 2 * 120);
        ask.unit = "unit";
        ask.flags = 1;
        ask.maxFeeBps = 1000;
        ask.expiry = type(uint40).max;
        ask.salt = ++_salt;
    }

    /// @dev Where it `may` not open, it must fail; where it may, budget, balance and capacity decide.
    function _tryOpen(Ask memory ask, Bid memory bid, uint256 buyer, Previous memory previous, bool may) private {
        Match memory order;
        (order.ask, order.bid, order.previous) = (ask, bid, previous);
        order.askSignature =
            _sign(ask.provider == providers[0].account ? providers[0].key : providers[1].key, TypedData.hash(ask));
        order.bidSignature = _sign(buyers[buyer].key, TypedData.hash(bid));
        uint256 free = NODE_GPU_MILLI - ESCROW.capacityUsed(ask.provider, ask.node);
        bool ok = _call(stranger.account, abi.encodeCall(ESCROW.open, (order)));
        if (!may || bid.gpuMilli > free) _must(false, ok, "open");
        if (!ok) return;
        succeeded["open"]++;
        _remember(order, buyer);
    }

    function _remember(Match memory order, uint256 buyer) private {
        Known storage k = _known.push();
        (k.buyer, k.buyerIndex, k.provider) = (order.bid.buyer, buyer, order.ask.provider);
        k.witness = order.bid.witness;
        k.witnessKey = order.bid.witness == witnesses[0].account ? witnesses[0].key : witnesses[1].key;
        k.meterKey = order.ask.meter == meters[0].account ? meters[0].key : meters[1].key;
        (k.bidHash, k.askHash) = (TypedData.hash(order.bid), TypedData.hash(order.ask));
        k.leaseNo = bytes16(keccak256(abi.encode(_ordersHash(k), order.ask.meter)));
        (k.bid, k.node, k.budget) = (abi.encode(order.bid), order.ask.node, order.bid.budget);
    }

    function _ordersHash(Known storage k) private view returns (bytes32) {
        return keccak256(abi.encode(k.bidHash, k.askHash));
    }

    /* SETTLING */

    function settle(uint256 seed, uint256 ms) external acting("settle") {
        if (_known.length == 0) return;
        Known storage k = _pick(seed);
        Lease memory lease = _lease(k);
        ms = _someMs(lease, seed, ms);
        bytes32 structHash = TypedData.usage(k.buyer, k.provider, k.leaseNo, uint64(ms));
        (bytes32 r, bytes32 vs) = _compact(k.witnessKey, structHash);
        bytes memory entry = abi.encodePacked(k.provider, uint16(1), k.buyer, k.leaseNo, uint40(ms), r, vs);
        _vouchers.push(entry);
        bool pays = _isDue(lease, ms) && _capped(lease, ms) > lease.usedMs;
        _must(pays, _settled(ESCROW.settle, entry), "settle");
    }

    function settleMetered(uint256 seed, uint256 ms, uint32 egressMib, uint32 units) external acting("settleMetered") {
        if (_known.length == 0) return;
        Known storage k = _pick(seed);
        Lease memory lease = _lease(k);
        ms = _someMs(lease, seed, ms);
        (egressMib, units) = (egressMib % 6000, units % 1200);
        Counted memory counted = ESCROW.counted(k.buyer, k.provider, k.witness, k.leaseNo);
        bytes32 structHash = TypedData.metered(k.buyer, k.provider, k.leaseNo, uint64(ms), egressMib, units);
        (bytes32 r, bytes32 vs) = _compact(k.witnessKey, structHash);
        bytes memory figures = abi.encodePacked(uint40(ms), egressMib, units);
        bytes memory entry = abi.encodePacked(k.provider, uint16(1), k.buyer, k.leaseNo, figures, r, vs);
        _meteredVouchers.push(entry);
        bool raises = _capped(lease, ms) > lease.usedMs || _least(egressMib, counted.egressMibCap) > counted.egressMib
            || _least(units, counted.unitsCap) > counted.units;
        _must(_isDue(lease, ms) && lease.hasCounted && raises, _settled(ESCROW.settleMetered, entry), "settleMetered");
    }

    /// @dev Sends an old voucher again: it pays only if it raises what it raised too early before, or not at all.
    function replay(uint256 seed, bool metered) external acting("replay") {
        bytes[] storage sent = metered ? _meteredVouchers : _vouchers;
        if (sent.length == 0) return;
        bytes memory entry = sent[seed % sent.length];
        vm.prank(stranger.account);
        metered ? ESCROW.settleMetered(entry) : ESCROW.settle(entry);
        bool again = metered ? _settled(ESCROW.settleMetered, entry) : _settled(ESCROW.settle, entry);
        _must(false, again, "replay");
    }

    function _settled(function(bytes memory) external returns (bytes memory) settle_, bytes memory entry)
        private
        returns (bool)
    {
        vm.prank(stranger.account);
        return settle_(entry)[0] == 0;
    }

    function _someMs(Lease memory lease, uint256 seed, uint256 ms) private view returns (uint256) {
        if (lease.state == LeaseState.None) return 0;
        uint256 elapsed = (vm.getBlockTimestamp() - lease.start) * 1000;
        return bound(ms, 0, seed % 4 == 0 ? elapsed + 100_000 : elapsed);
    }

    function _isDue(Lease memory lease, uint256 ms) private view returns (bool) {
        uint256 time = vm.getBlockTimestamp();
        return _isOpen(lease) && time <= lease.end + ESCROW.settleWindow() && ms <= (time - lease.start) * 1000;
    }

    function _capped(Lease memory lease, uint256 ms) private pure returns (uint256) {
        return _least(ms, uint256(lease.fundedSeconds) * 1000);
    }

    function _least(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }

    /* ENDING */

    function stop(uint256 seed, uint256 who) external acting("stop") {
        if (_known.length == 0) return;
        Known storage k = _pick(seed);
        bool active = _lease(k).state == LeaseState.Active;
        if (who % 5 < 3) {
            address sender = [k.buyer, k.provider, k.witness][who % 5];
            _must(
                active, _call(sender, abi.encodeCall(ESCROW.stop, (k.buyer, k.provider, k.witness, k.leaseNo))), "stop"
            );
            return;
        }
        uint256 key = who % 5 == 3 ? k.witnessKey : k.meterKey;
        _must(active, _call(stranger.account, _stopData(k, key)), "stopBySignature");
    }

    function _stopData(Known storage k, uint256 key) private view returns (bytes memory) {
        (bytes32 r, bytes32 vs) = _compact(key, TypedData.stop(k.buyer, k.provider, k.leaseNo));
        return
            abi.encodeCall(ESCROW.stopBySignature, (k.buyer, k.provider, k.witness, k.leaseNo, _ordersHash(k), r, vs));
    }

    function close(uint256 seed, uint256 ms, uint32 egressMib, uint32 units) external acting("close") {
        if (_known.length == 0) return;
        Known storage k = _pick(seed);
        Lease memory lease = _lease(k);
        Counted memory counted = ESCROW.counted(k.buyer, k.provider, k.witness, k.leaseNo);
        ms = _someMs(lease, seed, ms);
        if (lease.hasCounted) (egressMib, units) = (egressMib % 6000, units % 1200);
        else (egressMib, units) = (0, 0);
        bool fits = ms >= lease.usedMs && ms <= (vm.getBlockTimestamp() - lease.start) * 1000
            && egressMib >= counted.egressMib && units >= counted.units;
        bytes memory data = _closeData(k, uint64(ms), egressMib, units, k.meterKey, k.witnessKey);
        _must(_isOpen(lease) && fits, _call(stranger.account, data), "close");
    }

    function _closeData(Known storage k, uint64 ms, uint32 egressMib, uint32 units, uint256 first, uint256 second)
        private
        view
        returns (bytes memory)
    {
        CloseData memory data = CloseData(k.buyer, k.provider, k.leaseNo, _ordersHash(k), ms, egressMib, units);
        (bytes32 meterR, bytes32 meterVs) = _compact(first, TypedData.close(data));
        (bytes32 witnessR, bytes32 witnessVs) = _compact(second, TypedData.close(data));
        return abi.encodeCall(ESCROW.close, (data, meterR, meterVs, witnessR, witnessVs));
    }

    /// @dev Whatever happened before, the rest comes back once the window is over, and not sooner.
    function refund(uint256 seed, bool skipTime) external acting("refund") {
        if (_known.length == 0) return;
        Known storage k = _pick(seed);
        Lease memory lease = _lease(k);
        uint256 deadline = lease.end + ESCROW.settleWindow();
        if (skipTime && seed % 3 == 0 && vm.getBlockTimestamp() <= deadline) vm.warp(deadline + 1);
        bool due = _isOpen(lease) && vm.getBlockTimestamp() > deadline;
        bytes memory data = abi.encodeCall(ESCROW.refund, (k.buyer, k.provider, k.witness, k.leaseNo));
        _must(due, _call(stranger.account, data), "refund");
    }

    /* ATTACKS */

    /// @dev Whatever a stranger sends, signed by its own key where a signature is asked, nothing moves.
    function attack(uint256 seed, uint256 ms) external acting("attack") {
        if (_known.length == 0) return;
        Known storage k = _pick(seed);
        uint256 own = stranger.key;
        ms = _someMs(_lease(k), 1, ms);
        bytes memory stop_ = abi.encodeCall(ESCROW.stop, (k.buyer, k.provider, k.witness, k.leaseNo));
        _must(false, _call(stranger.account, stop_), "attack");
        _must(false, _call(stranger.account, _stopData(k, own)), "attack");
        _must(false, _call(stranger.account, _closeData(k, uint64(ms), 0, 0, own, k.witnessKey)), "attack");
        _must(false, _call(stranger.account, _closeData(k, uint64(ms), 0, 0, k.meterKey, own)), "attack");
        _must(false, _call(stranger.account, _closeData(k, uint64(ms), 0, 0, k.witnessKey, k.meterKey)), "attack");
        uint256[3] memory keys = [own, k.meterKey, buyers[k.buyerIndex].key];
        for (uint256 i = 0; i < 3; i++) {
            (bytes32 r, bytes32 vs) = _compact(keys[i], TypedData.usage(k.buyer, k.provider, k.leaseNo, uint64(ms)));
            bytes memory entry = abi.encodePacked(k.provider, uint16(1), k.buyer, k.leaseNo, uint40(ms), r, vs);
            _must(false, _settled(ESCROW.settle, entry), "attack");
        }
        // the witness's own voucher, sent for another provider
        (bytes32 r_, bytes32 vs_) = _compact(k.witnessKey, TypedData.usage(k.buyer, k.provider, k.leaseNo, uint64(ms)));
        bytes memory moved = abi.encodePacked(stranger.account, uint16(1), k.buyer, k.leaseNo, uint40(ms), r_, vs_);
        _must(false, _settled(ESCROW.settle, moved), "attack");
    }
}
