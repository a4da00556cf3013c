// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    Counted,
    Match,
    Numbered,
    Prices,
    Previous,
    Quote,
    TierLimit
} from "../../src/interfaces/IComputeEscrow.sol";
import {TypedData} from "../support/TypedData.sol";
import {Accounts} from "./Accounts.sol";

/// @notice The orders that were signed, and which pairs of them the escrow must take.
abstract contract Market is Accounts {
    bytes32 private constant TIER = "H100";
    uint16 private constant SHARED = 1;
    uint16 private constant NO_GPU = 2;
    uint16 private constant INTERRUPTIBLE = 4;

    /// @dev Orders as signed, encoded; cancelled ones stay.
    bytes[] internal _asks;
    bytes[] internal _bids;

    uint64 private _lastSalt;

    uint256 internal constant SEATING_SECONDS = 10 minutes;
    /// @dev When the bid's first lease opened.
    mapping(bytes32 bidHash => uint256) internal _seatedAt;

    /// @dev Atoms that the leases remembered so far in this action lock.
    mapping(address buyer => uint256) private _locking;
    address[] private _lockers;

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
        (ask.gpuMilli, ask.cpuMilli) = (uint32(NODE_GPU_MILLI), 64_000);
        ask.floor.gpuHour = uint64(_draw(_once(8) ? 10e9 : 3e9));
        ask.floor.cpuHour = uint64(_draw(0.1e9));
        (ask.floor.egressGib, ask.floor.unit) = (uint64(_draw(1e9)), uint64(_draw(7e6)));
        ask.minSeconds = uint32(_draw(2) * 60);
        ask.maxSeconds = _once(8) ? 1 hours : 1 days;
        ask.startLimitSeconds = [uint16(0), 120, 900, 1801][_draw(_once(8) ? 4 : 3)];
        ask.unit = "unit";
        if (_once(16)) ask.startsAt = uint40(vm.getBlockTimestamp() + _draw(10 minutes));
        ask.flags = SHARED | (_once(8) ? 0 : NO_GPU) | (_once(4) ? INTERRUPTIBLE : 0);
        ask.noticeSeconds = _once(8) ? 29 : 30;
        ask.maxFeeBps = _once(24) ? 0 : 1000;
        ask.expiry = _expiry();
        ask.salt = ++_lastSalt;
        _asks.push(abi.encode(ask));
    }

    function _newBid(uint256 nodes) internal returns (Bid memory bid) {
        bid.buyer = _purses.length > 0 && _once(3) ? _purses[_draw(_purses.length)].account : buyers[_draw(BUYERS)];
        bid.witness = witnesses[_draw(WITNESSES)];
        if (_once(16)) bid.opener = deployer;
        bid.limits = new TierLimit[](1);
        bid.limits[0] = TierLimit(TIER, _once(16) ? 1e12 : type(uint64).max, type(uint64).max, type(uint64).max);
        bid.gpuMilli = [uint32(250), 250, 1000, 1000, 2000, 3000, 0][_draw(7)];
        bid.cpuMilli = uint32(bid.gpuMilli == 0 ? 1 + _draw(64_000) : 0);
        bid.flags = SHARED | (bid.gpuMilli != 0 || _once(6) ? 0 : NO_GPU) | (_once(6) ? 0 : INTERRUPTIBLE);
        (bid.maxStartSeconds, bid.minNoticeSeconds) = (1800, 30);
        bid.maxSeconds = uint32(60 + _draw(2 hours));
        bid.budget = uint128((1 + _draw(_once(3) ? 2000 : 200)) * SCALE / 10 + _draw(1000)) * uint128(nodes);
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
        order.bidSignature = _sign(_bidder(bid.buyer), TypedData.hash(bid));
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
        Bid memory bid = order.bid;
        Named memory named = _name(order);
        may = genuine && _indexes[named.leaseNo] == 0 && _fits(order.ask, bid, order.seat, sender)
            && _isLive(order.ask.provider, Numbered.Orders, order.ask.salt)
            && _isLive(bid.buyer, Numbered.Orders, bid.salt) && _maySpend(bid.buyer);
        if (!may) return false;

        Prices memory prices = _prices(order);
        (bool fits, uint256 spent, uint256 previous) = _seatTakes(order, named.bidHash);
        if (!fits || _rate(prices, bid) > bid.limits[0].rate) return false;
        uint256 locked;
        (may, locked) = _funds(order.ask, bid, prices, spent);
        if (!may || _balances[bid.buyer] < _locking[bid.buyer] + locked) return false;
        if (_isFull(order.ask, bid)) return false;

        _remember(order, named, previous);
        _seats[named.bidHash][order.seat] = Seat(_known.length, spent);
        if (_seatedAt[named.bidHash] == 0) _seatedAt[named.bidHash] = vm.getBlockTimestamp();
        _locking[bid.buyer] += locked;
        _lockers.push(bid.buyer);
    }

    function _forgetLocking() internal {
        for (uint256 i = 0; i < _lockers.length; i++) {
            _locking[_lockers[i]] = 0;
        }
        delete _lockers;
    }

    /// @dev What a lease is opened from, and its number.
    struct Named {
        bytes32 bidHash;
        bytes32 askHash;
        bytes32 pricesHash;
        bytes16 leaseNo;
    }

    function _name(Match memory order) private pure returns (Named memory named) {
        (named.bidHash, named.askHash) = (TypedData.hash(order.bid), TypedData.hash(order.ask));
        named.pricesHash = TypedData.hash(_prices(order));
        named.leaseNo = _leaseNo(named.bidHash, named.askHash, named.pricesHash, order.seat, order.ask.meter);
    }

    function _prices(Match memory order) private pure returns (Prices memory) {
        return order.quoteSignature.length > 0 ? order.quote.prices : order.ask.floor;
    }

    function _rate(Prices memory prices, Bid memory bid) private pure returns (uint256) {
        return uint256(prices.gpuHour) * bid.gpuMilli + uint256(prices.cpuHour) * bid.cpuMilli;
    }

    function _leaseNo(bytes32 bidHash, bytes32 askHash, bytes32 pricesHash, uint16 seat, address meter)
        internal
        pure
        returns (bytes16)
    {
        return bytes16(keccak256(abi.encode(keccak256(abi.encode(bidHash, askHash, pricesHash, seat)), meter)));
    }

    function _fits(Ask memory ask, Bid memory bid, uint16 seat, address sender) private view returns (bool) {
        uint256 time = vm.getBlockTimestamp();
        bool openers =
            (ask.opener == address(0) || ask.opener == sender) && (bid.opener == address(0) || bid.opener == sender);
        bool times = time <= ask.expiry && time <= bid.expiry && time >= ask.startsAt
            && bid.maxSeconds <= ask.maxSeconds && bid.maxSeconds >= ask.minSeconds;
        return openers && times && _accepts(ask, bid) && seat < bid.nodes && ask.tier == TIER
            && ask.maxFeeBps >= ESCROW.feeBps();
    }

    /// @dev Neither start nor notice is worse than the bid bears, and both know what kind of lease it is.
    function _accepts(Ask memory ask, Bid memory bid) private pure returns (bool) {
        if (ask.startLimitSeconds > bid.maxStartSeconds) return false;
        if (bid.gpuMilli == 0 && (ask.flags & NO_GPU == 0 || bid.flags & NO_GPU == 0)) return false;
        if (ask.flags & INTERRUPTIBLE == 0) return true;
        return bid.flags & INTERRUPTIBLE != 0 && ask.noticeSeconds >= bid.minNoticeSeconds;
    }

    /// @dev A lease without a GPU needs no room.
    function _isFull(Ask memory ask, Bid memory bid) private view returns (bool) {
        return bid.gpuMilli > 0 && _reserved[ask.provider][ask.node] + bid.gpuMilli > NODE_GPU_MILLI;
    }

    /// @dev A seat opens once, in time; then it moves on from its latest lease alone, if the buyer's side said so.
    /// @return takes Whether it opens.
    /// @return spent Most that its earlier leases come to.
    /// @return previous Index of the lease that it follows + 1.
    function _seatTakes(Match memory order, bytes32 bidHash)
        private
        view
        returns (bool takes, uint256 spent, uint256 previous)
    {
        Seat storage seat = _seats[bidHash][order.seat];
        Previous memory p = order.previous;
        if (p.provider == address(0)) {
            uint256 seatedAt = _seatedAt[bidHash];
            bool inTime = seatedAt == 0 || vm.getBlockTimestamp() <= seatedAt + SEATING_SECONDS;
            return (seat.latest == 0 && inTime, 0, 0);
        }
        previous = _indexes[_leaseNo(bidHash, p.askHash, p.pricesHash, order.seat, p.meter)];
        if (previous == 0 || previous != seat.latest) return (false, 0, 0);
        Known storage k = _known[previous - 1];
        if (!k.again || k.provider != p.provider) return (false, 0, 0);
        return (true, seat.spent + k.seen.released + k.seen.locked, previous);
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
        uint256 rate = _rate(prices, bid);
        uint256 paid = bid.maxSeconds;
        if (rate > 0) paid = _least(paid, (budget - spent - countedLock) * 3.6e15 / (rate * SCALE));
        return (paid >= _most(ask.minSeconds, 1), _fullTime(rate, paid) + countedLock);
    }

    function _remember(Match memory order, Named memory named, uint256 previous) private {
        Known storage k = _known.push();
        (k.buyer, k.provider, k.witness) = (order.bid.buyer, order.ask.provider, order.bid.witness);
        (k.meter, k.leaseNo, k.seat, k.previous) = (order.ask.meter, named.leaseNo, order.seat, previous);
        (k.bidHash, k.askHash, k.pricesHash) = (named.bidHash, named.askHash, named.pricesHash);
        (k.bid, k.ask) = (abi.encode(order.bid), abi.encode(order.ask));
        _indexes[named.leaseNo] = _known.length;
        _reserved[k.provider][order.ask.node] += order.bid.gpuMilli;
        _touch(_known.length - 1, false);
        _involve(k.buyer);
    }
}
