// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, LeaseState, Match, Numbered, Previous, Relay} from "../../../src/interfaces/IComputeEscrow.sol";
import {TypedData} from "../../support/TypedData.sol";
import {Market} from "../Market.sol";

/// @notice Leases that open, honestly or not, orders that are cancelled, leases that are topped up.
abstract contract OrderActions is Market {
    error NotAll();

    /* OPENING */

    function open(uint256 seed) external acting(seed) {
        Bid memory bid = _newBid(1);
        Match memory order = _pair(_anAsk(), bid);
        _open("open", order, _opener(order), true);
        if (_once(7)) _open("open", order, _opener(order), true); // never again
    }

    /// @dev Moves a seat on from one of the bid's leases, be it the latest or not, marked or not, ended or not.
    function follow(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        Known storage k = _known[_once(4) ? _draw(_known.length) : _pickMarked()];
        Bid memory bid = abi.decode(k.bid, (Bid));
        Match memory order = _pair(_anAsk(), bid);
        (order.seat, order.previous) = (k.seat, _previous(k));
        uint256 flaw = _draw(24);
        if (flaw == 0) order.previous.provider = providers[_draw(PROVIDERS)];
        else if (flaw == 1) order.previous.pricesHash = k.askHash;
        else if (flaw == 2) order.previous.meter = meters[_draw(PROVIDERS)];
        else if (flaw == 3) order.seat = uint16(_draw(3));
        _open("follow", order, _opener(order), true);
    }

    function _previous(Known storage k) private view returns (Previous memory) {
        return Previous(k.provider, k.askHash, k.pricesHash, k.meter);
    }

    /// @dev A seat's latest lease that is marked, if there is one.
    function _pickMarked() private returns (uint256) {
        uint256 first = _draw(_known.length);
        for (uint256 i = 0; i < _known.length; i++) {
            uint256 index = (first + i) % _known.length;
            Known storage k = _known[index];
            if (k.again && _seats[k.bidHash][k.seat].latest == index + 1) return index;
        }
        return first;
    }

    /// @dev A seat that a bid of several nodes has left, in time for it or not.
    function openSeat(uint256 seed) external acting(seed) {
        if (_bids.length == 0) return;
        Bid memory bid = _someBid();
        for (uint256 i = 0; i < 12 && (bid.nodes < 2 || _seatedAt[TypedData.hash(bid)] == 0); i++) {
            bid = _someBid();
        }
        Match memory order = _pair(_anAsk(), bid);
        bytes32 bidHash = TypedData.hash(bid);
        while (order.seat + 1 < bid.nodes && _seats[bidHash][order.seat].latest != 0) order.seat++;
        if (_seatedAt[bidHash] > 0) _edge(4, _seatedAt[bidHash] + SEATING_SECONDS);
        _open("openSeat", order, _opener(order), true);
    }

    function _open(bytes32 action, Match memory order, address sender, bool genuine) private {
        uint256 expiry = _isPurse(order.bid.buyer) ? _purse(order.bid.buyer).expiry : type(uint40).max;
        _edge(12, _least(expiry, _least(order.ask.expiry, order.bid.expiry)));
        if (order.quoteSignature.length > 0) genuine = genuine && vm.getBlockTimestamp() <= order.quote.expiry;
        bool may = _foresee(order, sender, genuine);
        _do(action, may, sender, abi.encodeCall(ESCROW.open, (order)));
        _forgetLocking();
    }

    /// @dev All seats of a bid at once, or none: one that cannot open stops all.
    function openAll(uint256 seed) external acting(seed) {
        Match[] memory orders = _seatsOf(_newBid(1 + _draw(3)));
        if (_once(8)) orders[orders.length - 1].seat = uint16(_draw(4));
        address sender = _opener(orders[0]);
        bool may = true;
        try this.foreseeAll(orders, sender) {}
        catch {
            may = false; // and nothing of it is remembered
        }
        _do("openAll", may, sender, abi.encodeCall(ESCROW.openAll, (orders)));
        _forgetLocking();
    }

    function foreseeAll(Match[] memory orders, address sender) external {
        for (uint256 i = 0; i < orders.length; i++) {
            if (!_foresee(orders[i], sender, true)) revert NotAll();
        }
    }

    /// @dev Good and bad items in one batch: the bad ones are skipped, and stop none of the others.
    function openBatch(uint256 seed) external acting(seed) {
        Match[] memory orders = _seatsOf(_newBid(1 + _draw(4)));
        address sender = _opener(orders[0]);
        uint256 expected = 0;
        for (uint256 i = 0; i < orders.length; i++) {
            bool genuine = !_once(4);
            if (!genuine) _spoil(orders[i]);
            bool may = _foresee(orders[i], sender, genuine);
            if (may) succeeded["openBatch"]++;
            else (refused["openBatch"], expected) = (refused["openBatch"] + 1, expected | (1 << i));
        }
        bytes memory answer = _do("openBatchCall", true, sender, abi.encodeCall(ESCROW.openBatch, (orders)));
        _must("openBatchItems", true, uint8(abi.decode(answer, (bytes))[0]) == expected);
        _forgetLocking();
    }

    function _seatsOf(Bid memory bid) private returns (Match[] memory orders) {
        orders = new Match[](bid.nodes);
        for (uint256 i = 0; i < orders.length; i++) {
            orders[i] = _pair(_anAsk(), bid);
            orders[i].seat = uint16(i);
        }
    }

    /// @dev Orders that do not belong together: old, expired, cancelled, taken, of another seat, after another's lease,
    /// sent by who is not named, or changed after they were signed.
    function openBadly(uint256 seed) external acting(seed) {
        if (_bids.length == 0 || _asks.length == 0) return;
        Match memory order = _pair(_someAsk(), _someBid());
        order.seat = uint16(_draw(_once(4) ? 5 : order.bid.nodes));
        if (_known.length > 0 && _once(2)) {
            Known storage k = _known[_draw(_known.length)];
            order.previous = _previous(k);
        }
        bool genuine = !_once(3);
        if (!genuine) _spoil(order);
        _open("openBadly", order, _anyone(), genuine);
    }

    /// @dev What was signed no longer is what is sent.
    function _spoil(Match memory order) private {
        (order.bid, order.ask) = abi.decode(abi.encode(order.bid, order.ask), (Bid, Ask)); // others may share them
        uint256 how = _draw(_owned(order.bid.buyer) ? 8 : 7);
        if (how == 7) order.bidSignature = _sign(_purse(order.bid.buyer).owner, TypedData.hash(order.bid));
        else if (how == 0) order.bid.budget *= 2;
        else if (how == 1) order.bid.witness = stranger;
        else if (how == 2) order.ask.floor.gpuHour += 1;
        else if (how == 3) order.ask.node += 1;
        else if (how == 4) order.askSignature = _sign(deployer, TypedData.hash(order.ask));
        else if (how == 5) order.bidSignature = _sign(order.bid.witness, TypedData.hash(order.bid));
        else order.bid.salt += 1000;
    }

    /// @dev Whether this is a purse whose owner is not its operator: only the latter signs its bids.
    function _owned(address account) private view returns (bool) {
        return _isPurse(account) && _purse(account).owner != _purse(account).operator;
    }

    /* CANCELLING */

    struct Cancelling {
        address account;
        Numbered kind;
        uint64 salt;
        bool andOlder;
    }

    /// @dev By the account, by its signature, or by somebody who forges that. Orders, or calls that were or may yet be sent.
    function cancel(uint256 seed) external acting(seed) {
        if (_bids.length == 0 || _asks.length == 0) return;
        Cancelling memory c = _someCancelling();
        uint256 how = _draw(3);
        address signer = how == 2 ? _anyone() : _speaker(c.account);
        address sender = how == 0 ? _speaker(c.account) : stranger;
        bool said = how == 1 ? c.andOlder : !c.andOlder;
        bytes memory signature = _sign(signer, TypedData.cancel(c.account, c.kind, c.salt, said));
        bool may = (how == 1 && _speaksFor(c.account, signer)) || _speaksFor(c.account, sender);
        may = may && !(c.andOlder && c.salt == type(uint64).max);
        if (may) _void(c);
        bytes memory data = abi.encodeCall(ESCROW.cancel, (c.account, c.kind, c.salt, c.andOlder, signature));
        _do(c.andOlder ? bytes32("cancelOlder") : bytes32("cancel"), may, sender, data);
    }

    function _someCancelling() private returns (Cancelling memory c) {
        c.kind = _once(3) ? Numbered.Calls : Numbered.Orders;
        (c.account, c.salt) = c.kind == Numbered.Orders ? _someOrder() : (_anyAccount(), _someCall());
        c.andOlder = _once(2);
        if (c.andOlder && _once(2)) c.salt = uint64(_draw(_saltsFrom[c.account][c.kind] + 1)); // void stays void
        if (_once(16)) c.salt = type(uint64).max; // no salt is above it
    }

    function _void(Cancelling memory c) private {
        if (!c.andOlder) _cancelled[c.account][c.kind][c.salt] = true;
        else if (_saltsFrom[c.account][c.kind] <= c.salt) _saltsFrom[c.account][c.kind] = c.salt + 1;
    }

    function _someOrder() private returns (address, uint64) {
        if (_once(2)) {
            Ask memory ask = _someAsk();
            return (ask.provider, ask.salt);
        }
        Bid memory bid = _someBid();
        return (bid.buyer, bid.salt);
    }

    function _someCall() private returns (uint64) {
        return _lastCall + 2 - uint64(_draw(_least(_lastCall + 2, 8)));
    }

    /* TOPPING UP */

    /// @dev What a top-up names a lease by, which may be another or none.
    struct TopUp {
        Ask ask;
        Bid bid;
        bytes32 pricesHash;
        uint16 seat;
        uint32 added;
    }

    /// @dev By the buyer, a purse's owner or operator, or another.
    function topUp(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        (TopUp memory t, address account) = _someTopUp();
        address sender = _once(6) ? _anyone() : _speaker(account);
        (bool may, uint256 index) = _extendsBy(t, 0);
        may = may && _speaksFor(account, sender) && _maySpend(account);
        if (may) _extend(index, t.added);
        bytes memory data = abi.encodeCall(ESCROW.topUp, (t.ask, t.bid, t.pricesHash, t.seat, t.added));
        _do(_isPurse(account) ? bytes32("topUpOfPurse") : bytes32("topUp"), may, sender, data);
    }

    /// @dev By way of anyone, for a fee on top. A purse's operator signs no fee.
    function topUpBySignature(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        (TopUp memory t, address account) = _someTopUp();
        (address signer, address sender) = (_once(8) ? _anyone() : _speaker(account), _anyone());
        Relay memory relay = _someRelay(sender, _balances[account] / 64);
        bytes16 leaseNo = _leaseNo(t);
        (bool may, uint256 index) = _extendsBy(t, sender == account ? 0 : relay.fee);
        may = may && _relays(account, relay, sender) && _pays(account, signer, relay.fee);
        if (may) {
            _extend(index, t.added);
            _noteRelay(account, relay, sender);
        }
        bytes memory signature = _sign(signer, TypedData.topUp(account, t.ask.provider, leaseNo, t.added, relay));
        bytes memory data =
            abi.encodeCall(ESCROW.topUpBySignature, (t.ask, t.bid, t.pricesHash, t.seat, t.added, relay, signature));
        _do(_isPurse(account) ? bytes32("signedTopUpOfPurse") : bytes32("topUpBySignature"), may, sender, data);
        if (may && _once(4)) _do("topUpBySignature", false, sender, data);
    }

    function _pays(address account, address signer, uint256 fee) private view returns (bool) {
        if (!_isPurse(account)) return signer == account;
        if (!_maySpend(account)) return false;
        return signer == _purse(account).owner || (signer == _purse(account).operator && fee == 0);
    }

    function _extend(uint256 index, uint256 added) private {
        _touch(index, true);
        _mayExtend();
        _known[index].addedSeconds += added;
    }

    function _someTopUp() private returns (TopUp memory t, address account) {
        uint256 index = _once(4) ? _pick(_set(LeaseState.Active)) : _pickRunning();
        Known storage k = _known[index];
        (t.ask, t.bid) = (abi.decode(k.ask, (Ask)), abi.decode(_once(12) ? _bids[_draw(_bids.length)] : k.bid, (Bid)));
        (t.pricesHash, t.seat) = (_once(12) ? k.askHash : k.pricesHash, _once(12) ? uint16(_draw(4)) : k.seat);
        if (k.seen.state == LeaseState.Active) _edge(12, k.seen.end - 1);
        t.added = _once(2) ? _secondsLeft(k, t.bid) : uint32(_draw(1 hours));
        _touch(index, false);
        return (t, t.bid.buyer);
    }

    function _leaseNo(TopUp memory t) private pure returns (bytes16) {
        return _leaseNo(TypedData.hash(t.bid), TypedData.hash(t.ask), t.pricesHash, t.seat, t.ask.meter);
    }

    /// @dev An active lease with time left, if there is one; every other time one that followed another or is a purse's.
    function _pickRunning() private returns (uint256 found) {
        bool special = _once(2);
        found = _draw(_known.length);
        for (uint256 n = _known.length; n > 0; n--) {
            uint256 index = (found + n) % _known.length;
            Known storage k = _known[index];
            if (k.seen.state != LeaseState.Active || k.seen.end <= vm.getBlockTimestamp()) continue;
            if (!special || k.previous > 0 || _isPurse(k.buyer)) return index;
        }
    }

    /// @dev As many seconds as the budget has left, or one more; or as many as if nothing had been spent.
    function _secondsLeft(Known storage k, Bid memory bid) private returns (uint32) {
        uint256 gone = _fullCounted(k.counted) + (_once(3) ? 0 : _seats[k.bidHash][k.seat].spent);
        uint256 budget = bid.budget / bid.nodes;
        if (k.seen.rate == 0 || budget < gone) return 1;
        uint256 paid = (budget - gone) * 3.6e15 / (k.seen.rate * SCALE);
        uint256 now_ = _paidSeconds(k.seen);
        return paid > now_ ? uint32(_least(paid - now_ + _draw(2), 1 days)) : 1;
    }

    /// @dev Whether the lease named takes the top-up from a buyer that has consented and pays this fee besides.
    function _extendsBy(TopUp memory t, uint256 fee) private view returns (bool, uint256 index) {
        index = _indexes[_leaseNo(t)];
        if (index == 0) return (false, 0);
        index--;
        Known storage k = _known[index];
        uint256 paid = _paidSeconds(k.seen) + t.added;
        if (k.seen.state != LeaseState.Active || vm.getBlockTimestamp() >= k.seen.end) return (false, index);
        if (t.added == 0 || paid > t.ask.maxSeconds) return (false, index);
        uint256 full = _fullTime(k.seen.rate, paid);
        uint256 was = _fullTime(k.seen.rate, _paidSeconds(k.seen));
        uint256 cost = _seats[k.bidHash][k.seat].spent + full + _fullCounted(k.counted);
        return (cost <= t.bid.budget / t.bid.nodes && full - was + fee <= _balances[k.buyer], index);
    }
}
