// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, LeaseState, Match, Previous} from "../../../src/interfaces/IComputeEscrow.sol";
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

    /// @dev Moves a seat on from one of the bid's leases, be it the latest or not, ended or not.
    function follow(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        Known storage k = _known[_pick(_set(LeaseState.Closed) | _set(LeaseState.Stopped))];
        Bid memory bid = abi.decode(k.bid, (Bid));
        if (k.seen.state != LeaseState.Closed) _edge(4, k.seen.end - 1);
        Match memory order = _pair(_anAsk(), bid);
        (order.seat, order.previous) = (k.seat, Previous(k.provider, k.askHash, k.meter));
        if (_once(8)) order.previous.provider = providers[_draw(PROVIDERS)];
        if (_once(8)) order.seat = uint16(_draw(3));
        _open("follow", order, _opener(order), true);
    }

    function _open(bytes32 action, Match memory order, address sender, bool genuine) private {
        _edge(12, _least(order.ask.expiry, order.bid.expiry));
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
            order.previous = Previous(k.provider, k.askHash, k.meter);
        }
        bool genuine = !_once(3);
        if (!genuine) _spoil(order);
        _open("openBadly", order, _anyone(), genuine);
    }

    /// @dev What was signed no longer is what is sent.
    function _spoil(Match memory order) private {
        (order.bid, order.ask) = abi.decode(abi.encode(order.bid, order.ask), (Bid, Ask)); // others may share them
        uint256 how = _draw(7);
        if (how == 0) order.bid.budget *= 2;
        else if (how == 1) order.bid.witness = stranger;
        else if (how == 2) order.ask.floor.gpuHour += 1;
        else if (how == 3) order.ask.node += 1;
        else if (how == 4) order.askSignature = _sign(deployer, TypedData.hash(order.ask));
        else if (how == 5) order.bidSignature = _sign(order.bid.witness, TypedData.hash(order.bid));
        else order.bid.salt += 1000;
    }

    /* CANCELLING */

    /// @dev By the account, by its signature, or by somebody who forges that.
    function cancel(uint256 seed) external acting(seed) {
        if (_bids.length == 0 || _asks.length == 0) return;
        (address account, uint64 salt) = _someOrder();
        bool andOlder = _once(2);
        if (andOlder && _once(2)) salt = uint64(_draw(_ordersFrom[account] + 1)); // what is void stays void
        if (_once(16)) salt = type(uint64).max; // no salt is above it
        uint256 how = _draw(3);
        address signer = how == 2 ? _anyone() : account;
        address sender = how == 0 ? account : stranger;
        bytes memory signature = _sign(signer, TypedData.cancel(account, salt, how == 1 ? andOlder : !andOlder));
        bool consents = sender == account || (how == 1 && signer == account);
        bool may = consents && !(andOlder && salt == type(uint64).max);
        if (may && andOlder) _ordersFrom[account] = uint64(_most(_ordersFrom[account], salt + 1));
        else if (may) _cancelled[account][salt] = true;
        bytes32 action = andOlder ? bytes32("cancelOlder") : bytes32("cancel");
        _do(action, may, sender, abi.encodeCall(ESCROW.cancel, (account, salt, andOlder, signature)));
    }

    function _someOrder() private returns (address, uint64) {
        if (_once(2)) {
            Ask memory ask = _someAsk();
            return (ask.provider, ask.salt);
        }
        Bid memory bid = _someBid();
        return (bid.buyer, bid.salt);
    }

    /* TOPPING UP */

    function topUp(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _once(2) ? _pick(_set(LeaseState.Active)) : _pickFollower();
        Known storage k = _known[index];
        Bid memory bid = abi.decode(_once(8) ? _bids[_draw(_bids.length)] : k.bid, (Bid));
        if (k.seen.state == LeaseState.Active) _edge(12, k.seen.end - 1);
        uint16 seat = _once(8) ? uint16(_draw(4)) : k.seat;
        address sender = _once(6) ? _anyone() : k.buyer;
        uint32 seconds_ = _once(2) ? _secondsLeft(k, bid) : uint32(_draw(1 hours));
        bool may = sender == k.buyer && _extendsBy(index, bid, seat, seconds_);
        _touch(index, may);
        if (may) _mayExtend();
        _do("topUp", may, sender, abi.encodeCall(ESCROW.topUp, (_orders(k), bid, seat, seconds_)));
    }

    /// @dev An active lease that followed another, if there is one.
    function _pickFollower() private returns (uint256) {
        uint256 first = _pick(_set(LeaseState.Active));
        for (uint256 i = 0; i < _known.length; i++) {
            uint256 index = (first + i) % _known.length;
            Known storage k = _known[index];
            if (k.seen.state == LeaseState.Active && _seats[k.bidHash][k.seat].spent > 0) return index;
        }
        return first;
    }

    /// @dev As many seconds as the budget has left, or one more; or as many as if nothing had been spent.
    function _secondsLeft(Known storage k, Bid memory bid) private returns (uint32) {
        uint256 gone = _fullCounted(k.counted) + (_once(3) ? 0 : _seats[k.bidHash][k.seat].spent);
        uint256 budget = bid.budget / bid.nodes;
        if (k.seen.rate == 0 || budget < gone) return 1;
        uint256 funded = (budget - gone) * 3.6e15 / (k.seen.rate * SCALE);
        return funded > k.seen.fundedSeconds ? uint32(_least(funded - k.seen.fundedSeconds + _draw(2), 1 days)) : 1;
    }

    function _extendsBy(uint256 index, Bid memory bid, uint16 seat, uint256 seconds_) private view returns (bool) {
        Known storage k = _known[index];
        Ask memory ask = abi.decode(k.ask, (Ask));
        uint256 funded = k.seen.fundedSeconds + seconds_;
        if (k.seen.state != LeaseState.Active || vm.getBlockTimestamp() >= k.seen.end || seconds_ == 0) return false;
        if (funded > uint256(ask.maxSeconds) + ask.startLimitSeconds) return false;
        if (TypedData.hash(bid) != k.bidHash || seat >= bid.nodes) return false;
        if (_seats[k.bidHash][seat].latest != index + 1) return false;
        uint256 full = _fullTime(k.seen.rate, funded);
        uint256 was = _fullTime(k.seen.rate, k.seen.fundedSeconds);
        bool affordable = _seats[k.bidHash][seat].spent + full + _fullCounted(k.counted) <= bid.budget / bid.nodes;
        return affordable && full - was <= _balances[k.buyer];
    }
}
