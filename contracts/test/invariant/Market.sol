// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    Counted,
    Lease,
    LeaseState,
    Match,
    Prices,
    Previous,
    Quote,
    TierLimit
} from "../../src/interfaces/IComputeEscrow.sol";
import {TypedData} from "../support/TypedData.sol";
import {World} from "./World.sol";

/// @notice The orders that were signed, and which pairs of them the escrow must take.
abstract contract Market is World {
    bytes32 private constant TIER = "H100";

    /// @dev Orders as signed, encoded; cancelled ones stay.
    bytes[] internal _asks;
    bytes[] internal _bids;

    uint64 private _lastSalt;
    mapping(address account => mapping(uint64 salt => bool)) internal _cancelled;
    mapping(address account => uint64) internal _ordersFrom;

    /// @dev Atoms that the leases remembered so far in this action lock.
    mapping(address buyer => uint256) private _locking;

    /* WHAT TESTS READ */

    function asks() external view returns (bytes[] memory) {
        return _asks;
    }

    function bids() external view returns (bytes[] memory) {
        return _bids;
    }

    /* NEW ORDERS */

    function _newAsk() internal returns (Ask memory ask) {
        uint256 who = _draw(PROVIDERS);
        (ask.provider, ask.meter) = (providers[who], meters[who]);
        if (_once(8)) ask.opener = deployer;
        ask.node = uint24(_draw(NODES));
        ask.tier = _once(24) ? bytes32("A100") : TIER;
        ask.gpuMilli = uint32(NODE_GPU_MILLI);
        ask.floor.gpuHour = uint64(_draw(_once(8) ? 10e9 : 3e9));
        (ask.floor.egressGib, ask.floor.unit) = (uint64(_draw(1e9)), uint64(_draw(7e6)));
        ask.minSeconds = uint32(_draw(2) * 60);
        ask.maxSeconds = _once(8) ? 1 hours : 1 days;
        ask.startLimitSeconds = uint32(_draw(2) * 120);
        ask.unit = "unit";
        if (_once(16)) ask.startsAt = uint40(vm.getBlockTimestamp() + _draw(10 minutes));
        ask.flags = 1;
        ask.maxFeeBps = _once(24) ? 0 : 1000;
        ask.expiry = _expiry();
        ask.salt = ++_lastSalt;
        _asks.push(abi.encode(ask));
    }

    function _newBid(uint256 nodes) internal returns (Bid memory bid) {
        bid.buyer = buyers[_draw(BUYERS)];
        bid.witness = witnesses[_draw(WITNESSES)];
        if (_once(16)) bid.opener = deployer;
        bid.limits = new TierLimit[](1);
        bid.limits[0] = TierLimit(TIER, _once(16) ? 1e12 : type(uint64).max, type(uint64).max, type(uint64).max);
        bid.gpuMilli = [uint32(250), 250, 1000, 1000, 2000, 3000][_draw(6)];
        bid.flags = 1;
        bid.maxSeconds = uint32(60 + _draw(2 hours));
        bid.budget = uint128((1 + _draw(200)) * SCALE / 10 + _draw(1000)) * uint128(nodes);
        if (_once(3)) (bid.egressMib, bid.units, bid.unit) = (uint32(_draw(4096)), uint32(_draw(999)), "unit");
        bid.nodes = uint16(nodes);
        bid.maxFeeBps = 1000;
        bid.expiry = _expiry();
        bid.salt = ++_lastSalt;
        _bids.push(abi.encode(bid));
    }

    function _expiry() private returns (uint40) {
        return _once(6) ? uint40(vm.getBlockTimestamp() + _draw(1 hours)) : type(uint40).max;
    }

    /// @dev An old ask or a new one.
    function _anAsk() internal returns (Ask memory) {
        return _asks.length > 0 && _once(2) ? _someAsk() : _newAsk();
    }

    function _someAsk() internal returns (Ask memory) {
        return abi.decode(_asks[_asks.length - 1 - _draw(_least(_asks.length, 12))], (Ask));
    }

    function _someBid() internal returns (Bid memory) {
        return abi.decode(_bids[_bids.length - 1 - _draw(_least(_bids.length, 12))], (Bid));
    }

    /* PAIRS */

    /// @dev Both orders as their signers signed them; sometimes with a quote above the ask's price.
    function _pair(Ask memory ask, Bid memory bid) internal returns (Match memory order) {
        (order.ask, order.bid) = (ask, bid);
        bytes32 askHash = TypedData.hash(ask);
        order.askSignature = _sign(ask.provider, askHash);
        order.bidSignature = _sign(bid.buyer, TypedData.hash(bid));
        if (_once(4)) _quote(order, askHash);
    }

    function _quote(Match memory order, bytes32 askHash) private {
        Prices memory prices = abi.decode(abi.encode(order.ask.floor), (Prices)); // a copy
        order.quote = Quote(askHash, prices, uint40(vm.getBlockTimestamp()));
        order.quote.prices.gpuHour += uint64(_draw(1e9));
        order.quote.prices.unit += uint64(_draw(1e6));
        order.quoteSignature = _sign(order.ask.meter, TypedData.hash(order.quote));
    }

    function _opener(Match memory order) internal view returns (address) {
        if (order.ask.opener != address(0)) return order.ask.opener;
        return order.bid.opener != address(0) ? order.bid.opener : stranger;
    }

    /* WHAT MUST OPEN */

    /// @dev Whether the escrow must open a lease from orders whose signatures are `genuine`. If so, remembers it.
    function _foresee(Match memory order, address sender, bool genuine) internal returns (bool may) {
        bytes32 bidHash = TypedData.hash(order.bid);
        bytes32 askHash = TypedData.hash(order.ask);
        bytes16 leaseNo = _leaseNo(bidHash, askHash, order.ask.meter);
        Bid memory bid = order.bid;
        may = genuine && _indexes[leaseNo] == 0 && _fits(order.ask, bid, order.seat, sender)
            && _isLive(order.ask.provider, order.ask.salt) && _isLive(bid.buyer, bid.salt);
        if (!may) return false;

        Prices memory prices = order.quoteSignature.length > 0 ? order.quote.prices : order.ask.floor;
        (bool fits, uint256 spent) = _seatTakes(order, bidHash);
        if (!fits || uint256(prices.gpuHour) * bid.gpuMilli > bid.limits[0].rate) return false;
        uint256 locked;
        (may, locked) = _funds(order.ask, bid, prices, spent);
        if (!may || _balances[bid.buyer] < _locking[bid.buyer] + locked) return false;
        if (_reserved[order.ask.provider][order.ask.node] + bid.gpuMilli > NODE_GPU_MILLI) return false;

        _remember(order, bidHash, askHash, leaseNo);
        _seats[bidHash][order.seat] = Seat(_known.length, spent);
        _locking[bid.buyer] += locked;
    }

    function _forgetLocking() internal {
        for (uint256 i = 0; i < BUYERS; i++) {
            if (_locking[buyers[i]] > 0) _locking[buyers[i]] = 0;
        }
    }

    function _leaseNo(bytes32 bidHash, bytes32 askHash, address meter) internal pure returns (bytes16) {
        return bytes16(keccak256(abi.encode(keccak256(abi.encode(bidHash, askHash)), meter)));
    }

    function _isLive(address account, uint64 salt) internal view returns (bool) {
        return !_cancelled[account][salt] && salt >= _ordersFrom[account];
    }

    function _fits(Ask memory ask, Bid memory bid, uint16 seat, address sender) private view returns (bool) {
        uint256 time = vm.getBlockTimestamp();
        bool openers =
            (ask.opener == address(0) || ask.opener == sender) && (bid.opener == address(0) || bid.opener == sender);
        bool times = time <= ask.expiry && time <= bid.expiry && time >= ask.startsAt
            && bid.maxSeconds <= ask.maxSeconds && bid.maxSeconds >= ask.minSeconds;
        return openers && times && seat < bid.nodes && ask.tier == TIER && ask.maxFeeBps >= ESCROW.feeBps();
    }

    /// @dev A seat opens once; then it moves on from its latest lease alone, once that has ended.
    /// @return spent Most that its earlier leases come to.
    function _seatTakes(Match memory order, bytes32 bidHash) private view returns (bool, uint256 spent) {
        Seat storage seat = _seats[bidHash][order.seat];
        if (order.previous.provider == address(0)) return (seat.latest == 0, 0);
        uint256 index = _indexes[_leaseNo(bidHash, order.previous.askHash, order.previous.meter)];
        if (index == 0 || index != seat.latest) return (false, 0);
        Known storage k = _known[index - 1];
        bool ended = k.seen.state == LeaseState.Closed || vm.getBlockTimestamp() >= k.seen.end;
        if (!ended || k.provider != order.previous.provider) return (false, 0);
        return (true, seat.spent + k.seen.released + k.seen.locked);
    }

    function _funds(Ask memory ask, Bid memory bid, Prices memory prices, uint256 spent)
        private
        view
        returns (bool, uint256 locked)
    {
        uint256 budget = bid.budget / bid.nodes;
        Counted memory counted = Counted(prices.egressGib, prices.unit, 0, 0, bid.egressMib, bid.units);
        uint256 countedLock = _fullCounted(counted);
        if (budget < spent + countedLock) return (false, 0);
        uint256 rate = uint256(prices.gpuHour) * bid.gpuMilli;
        uint256 funded = uint256(bid.maxSeconds) + ask.startLimitSeconds;
        if (rate > 0) funded = _least(funded, (budget - spent - countedLock) * 3.6e15 / (rate * SCALE));
        uint256 least = _most(uint256(ask.minSeconds) + ask.startLimitSeconds, 1);
        return (funded >= least, _fullTime(rate, funded) + countedLock);
    }

    function _remember(Match memory order, bytes32 bidHash, bytes32 askHash, bytes16 leaseNo) private {
        Known storage k = _known.push();
        (k.buyer, k.provider, k.witness) = (order.bid.buyer, order.ask.provider, order.bid.witness);
        (k.meter, k.leaseNo, k.seat) = (order.ask.meter, leaseNo, order.seat);
        (k.bidHash, k.askHash) = (bidHash, askHash);
        (k.bid, k.ask) = (abi.encode(order.bid), abi.encode(order.ask));
        _indexes[leaseNo] = _known.length;
        _reserved[k.provider][order.ask.node] += order.bid.gpuMilli;
        _touch(_known.length - 1, false);
        _involve(k.buyer);
    }
}
