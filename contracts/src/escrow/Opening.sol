// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {
    Ask,
    Bid,
    IEscrowCore,
    LeaseKey,
    LeaseState,
    LeaseTerms,
    Match,
    Numbered,
    Previous,
    Prices,
    Quote
} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Entries} from "../libraries/Entries.sol";
import {CountedSlots, LeaseSlot, LeaseSlots} from "../libraries/LeaseSlot.sol";
import {Orders} from "../libraries/Orders.sol";
import {Units} from "../libraries/Units.sol";
import {Leases} from "./Leases.sol";

/// @title Opening
/// @notice Leases from signed orders.
abstract contract Opening is Leases, IEscrowCore {
    using Entries for bytes;

    /// @dev Gas that one item of a batch may use, so that a contract wallet cannot burn what the others need: what the dearest
    /// order takes (32 tiers, counted, quoted, of a purse, contract wallets on both sides), and 15 %.
    uint256 private constant OPEN_GAS = 285_000;
    /// @dev In which all seats of a bid open first, so that nobody can keep one back for later.
    uint256 private constant SEATING_SECONDS = 10 minutes;

    /// @dev A lease on its way.
    struct Draft {
        address buyer;
        address provider;
        uint16 nodes;
        bool hasCounted;
        bytes16 leaseNo;
        LeaseTerms terms;
    }

    /* OPENING */

    /// @inheritdoc IEscrowCore
    function open(Match calldata order) external returns (bytes16) {
        return _open(order);
    }

    /// @inheritdoc IEscrowCore
    function openAll(Match[] calldata orders) external {
        Check.atMost(MAX_LEASES, orders.length, BatchTooLarge.selector);
        for (uint256 i = 0; i < orders.length; i++) {
            _open(orders[i]);
        }
    }

    function _open(Match calldata order) private returns (bytes16) {
        (Ask memory ask, Bid memory bid) = (order.ask, order.bid);
        Draft memory draft = _draft(ask, bid, order.seat);
        LeaseTerms memory terms = draft.terms;

        Prices memory prices = _agree(order, ask, bid, draft);
        LeaseBox storage box = _number(draft);
        _fund(terms, ask, bid, prices, _takeSeat(draft, order));

        _debit(draft.buyer, terms.locked);
        _reserve(draft.provider, terms.node, terms.gpuMilli, ask.gpuMilli);
        box.slot = _slotOf(terms, draft.hasCounted);
        emit Opened(draft.leaseNo, draft.buyer, draft.provider, terms);
        if (draft.hasCounted) {
            box.counted = CountedSlots.pack(prices.egressGib, prices.unit, bid.egressMib, bid.units);
            emit OpenedCounted(draft.leaseNo, prices.egressGib, prices.unit, bid.egressMib, bid.units);
        }
        return draft.leaseNo;
    }

    /// @inheritdoc IEscrowCore
    /// @dev Each item is a call of this code by this code for the same sender, so that a failure undoes it alone.
    function openBatch(Match[] calldata orders) external returns (bytes memory skipped) {
        Check.atMost(MAX_LEASES, orders.length, BatchTooLarge.selector);
        skipped = Entries.bitmap(orders.length);
        for (uint256 i = 0; i < orders.length; i++) {
            if (!_tryOpen(orders[i], i + 1 < orders.length ? orders[i + 1] : orders[i])) skipped.setBit(i);
        }
    }

    /// @dev Calls `open` with the calldata of `order` as it is: up to `next` where that lies behind it, else to the end.
    function _tryOpen(Match calldata order, Match calldata next) private returns (bool opened) {
        bytes4 selector = this.open.selector;
        uint256 gasLimit = OPEN_GAS;
        assembly ("memory-safe") {
            let size := sub(calldatasize(), order)
            if gt(next, order) { size := sub(next, order) }
            let ptr := mload(0x40)
            mstore(ptr, selector)
            mstore(add(ptr, 0x04), 0x20) // where the order starts
            calldatacopy(add(ptr, 0x24), order, size)
            opened := delegatecall(gasLimit, address(), ptr, add(size, 0x24), 0, 0)
        }
    }

    /// @dev The part of a lease that the orders alone settle.
    function _draft(Ask memory ask, Bid memory bid, uint16 seat) private pure returns (Draft memory draft) {
        (draft.buyer, draft.provider, draft.nodes) = (bid.buyer, ask.provider, bid.nodes);
        draft.hasCounted = bid.egressMib > 0 || bid.units > 0;
        LeaseTerms memory terms = draft.terms;
        (terms.witness, terms.meter) = (bid.witness, ask.meter);
        (terms.bidHash, terms.askHash) = (Orders.hash(bid), Orders.hash(ask));
        (terms.gpuMilli, terms.node, terms.seat) = (bid.gpuMilli, ask.node, seat);
        terms.bidSalt = bid.salt;
    }

    /// @dev Reverts unless both orders fit, are live and signed, and the bid accepts the price.
    function _agree(Match calldata order, Ask memory ask, Bid memory bid, Draft memory draft)
        private
        view
        returns (Prices memory prices)
    {
        LeaseTerms memory terms = draft.terms;
        Orders.requireFit(ask, bid, terms.seat, FEE_BPS);
        _requireLive(draft.provider, ask.salt);
        if (!_signed(draft.provider, _hashTypedDataV4(terms.askHash), order.askSignature)) {
            revert InvalidSignature(draft.provider);
        }
        _requireBuyer(draft.buyer, _hashTypedDataV4(terms.bidHash), order.bidSignature);
        prices = _prices(order, ask, terms.askHash);
        terms.pricesHash = Orders.hash(prices);
        terms.rate = Orders.rate(prices, bid);
        Orders.requireWithinLimits(bid, ask.tier, prices, terms.rate);
    }

    /// @dev Numbers the lease, which must be new.
    function _number(Draft memory draft) private view returns (LeaseBox storage box) {
        LeaseTerms memory terms = draft.terms;
        bytes32 termsHash = Orders.termsHash(terms.bidHash, terms.askHash, terms.pricesHash, terms.seat);
        draft.leaseNo = Orders.leaseNo(termsHash, terms.meter);
        box = _lease(LeaseKey(draft.buyer, draft.provider, terms.witness, draft.leaseNo));
        if (box.slot.state() != LeaseState.None) revert LeaseExists(draft.leaseNo);
    }

    /// @dev Reverts unless the buyer signed, or the operator of a purse that may still spend.
    function _requireBuyer(address buyer, bytes32 digest, bytes calldata signature) private view {
        if (_signed(buyer, digest, signature)) return;
        if (!_signed(_livePurse(buyer).operator, digest, signature)) revert InvalidSignature(buyer);
    }

    /// @dev The ask's own prices, or those that its meter quotes.
    function _prices(Match calldata order, Ask memory ask, bytes32 askHash) private view returns (Prices memory) {
        if (order.quoteSignature.length == 0) return ask.floor;
        Quote memory quote = order.quote;
        if (quote.askHash != askHash) revert QuoteForOtherAsk(askHash, quote.askHash);
        Orders.requireLive(quote.expiry);
        Orders.requireAboveFloor(ask.floor, quote.prices);
        (address signer,,) = ECDSA.tryRecoverCalldata(_hashTypedDataV4(Orders.hash(quote)), order.quoteSignature);
        if (signer != ask.meter) revert InvalidSignature(ask.meter);
        return quote.prices;
    }

    /// @dev Reverts if the account cancelled its order.
    function _requireLive(address account, uint64 salt) private view returns (uint256 bits) {
        (uint256 word, uint256 used) = _saltBits(Numbered.Orders, salt);
        bits = _salts[account][word];
        if (bits & (used << 1) != 0 || salt < _accounts[account].ordersFrom) revert CancelledOrder(account, salt);
    }

    /// @dev Takes the bid's seat: for its first lease, or for one that follows the latest, if that was marked.
    /// @return spent Atoms that the seat's earlier leases have paid or may still pay.
    function _takeSeat(Draft memory draft, Match calldata order) private returns (uint256 spent) {
        LeaseTerms memory terms = draft.terms;
        uint256 bits = _requireLive(draft.buyer, terms.bidSalt);
        bool first = order.previous.provider == address(0);
        if (draft.nodes == 1) {
            return first ? _takeBid(draft, bits) : _follow(draft, order, _bids[terms.bidHash], false);
        }

        BidRecord storage record = _bids[_seatKey(terms.bidHash, terms.seat)];
        if (!first) return _follow(draft, order, record, true);
        if (record.latest != 0) revert SeatTaken(terms.bidHash, terms.seat);
        record.latest = draft.leaseNo;
        uint256 seatedAt = _seatedAt[terms.bidHash];
        if (seatedAt == 0) {
            _seatedAt[terms.bidHash] = block.timestamp;
            _takeBid(draft, bits);
        } else {
            Check.atMost(seatedAt + SEATING_SECONDS, block.timestamp, SeatsClosed.selector);
        }
    }

    /// @dev Takes the bid's number, which one bid has alone.
    function _takeBid(Draft memory draft, uint256 bits) private returns (uint256) {
        (uint256 word, uint256 used) = _saltBits(Numbered.Orders, draft.terms.bidSalt);
        if (bits & used != 0) revert NonceUsed(draft.buyer, draft.terms.bidSalt);
        _salts[draft.buyer][word] = bits | used;
        return 0;
    }

    /// @param recorded Whether the record names the latest lease already; else the bid's first one is, whichever it was.
    function _follow(Draft memory draft, Match calldata order, BidRecord storage record, bool recorded)
        private
        returns (uint256 spent)
    {
        Previous memory previous = order.previous;
        LeaseTerms memory terms = draft.terms;
        bytes32 termsHash = Orders.termsHash(terms.bidHash, previous.askHash, previous.pricesHash, terms.seat);
        bytes16 latest = Orders.leaseNo(termsHash, previous.meter);
        if ((recorded || record.latest != 0) && record.latest != latest) revert NotLatestLease(record.latest, latest);
        LeaseBox storage box = _lease(LeaseKey(draft.buyer, previous.provider, terms.witness, latest));
        LeaseSlot slot = box.slot;
        if (slot.state() == LeaseState.None) revert UnknownLease(latest);
        if (!slot.again()) revert NotMarkedAgain(latest);
        spent = record.spentBefore + _mostReleased(box, slot);
        (record.latest, record.spentBefore) = (draft.leaseNo, uint128(spent));
    }

    /// @dev Funds the bid's longest time, or what the rest of the budget pays for. The start limit comes on top, unpaid.
    function _fund(LeaseTerms memory terms, Ask memory ask, Bid memory bid, Prices memory prices, uint256 spent)
        private
        view
    {
        uint256 budget = bid.budget / bid.nodes;
        budget = budget > spent ? budget - spent : 0;
        uint256 countedLock = Units.countedUp(prices.egressGib, prices.unit, bid.egressMib, bid.units, SCALE);
        Check.atLeast(countedLock, budget, BudgetTooSmall.selector);

        uint256 paid = _min(bid.maxSeconds, Orders.MAX_PAID_SECONDS);
        paid = _min(paid, Units.affordableSeconds(terms.rate, budget - countedLock, SCALE));
        uint256 least = _max(ask.minSeconds, 1);
        if (paid < least) {
            Check.fail(Units.costUp(terms.rate, least * Units.MS, SCALE) + countedLock, budget, BudgetTooSmall.selector);
        }

        terms.startSeconds = ask.startLimitSeconds;
        terms.funded = uint32(paid + terms.startSeconds);
        terms.end = uint40(block.timestamp + terms.funded);
        terms.locked = Units.costUp(terms.rate, paid * Units.MS, SCALE) + countedLock;
    }

    function _slotOf(LeaseTerms memory terms, bool hasCounted) private pure returns (LeaseSlot) {
        return LeaseSlots.pack(
            terms.rate, terms.end, terms.funded, terms.startSeconds, terms.gpuMilli, terms.node, hasCounted
        );
    }
}
