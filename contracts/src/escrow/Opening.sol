// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {Ask, Bid, IEscrowCore, LeaseState, Match, Prices, Quote} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Entries} from "../libraries/Entries.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {CountedSlots, LeaseSlot, LeaseSlots} from "../libraries/LeaseSlot.sol";
import {Orders} from "../libraries/Orders.sol";
import {Units} from "../libraries/Units.sol";
import {Leases} from "./Leases.sol";

/// @title Opening
/// @notice Leases from signed orders.
abstract contract Opening is Leases, IEscrowCore {
    using Entries for bytes;

    uint256 private constant MAX_OPENS = 200;
    /// @dev Gas that one item of a batch may use, so that a contract wallet cannot burn what the others need.
    uint256 private constant OPEN_GAS = 600_000;

    /// @dev A lease on its way: what the orders say of it, then what follows from them.
    struct Draft {
        address buyer;
        address provider;
        address witness;
        address meter;
        bytes32 bidHash;
        bytes32 askHash;
        uint32 gpuMilli;
        uint24 node;
        bool hasCounted;
        uint16 nodes;
        uint16 seat;
        uint64 bidSalt;
        bytes16 leaseNo;
        uint64 rate;
        uint40 end;
        uint32 funded;
        uint256 locked;
    }

    /* OPENING */

    /// @inheritdoc IEscrowCore
    function open(Match calldata order) external returns (bytes16) {
        return _open(order);
    }

    /// @inheritdoc IEscrowCore
    function openAll(Match[] calldata orders) external {
        Check.atMost(MAX_OPENS, orders.length, BatchTooLarge.selector);
        for (uint256 i = 0; i < orders.length; i++) {
            _open(orders[i]);
        }
    }

    function _open(Match calldata order) private returns (bytes16 leaseNo) {
        (Ask memory ask, Bid memory bid) = (order.ask, order.bid);
        Draft memory draft = _draft(ask, bid, order.seat);
        leaseNo = draft.leaseNo;
        LeaseBox storage box = _lease(draft.buyer, draft.provider, draft.witness, leaseNo);

        if (box.slot.state() != LeaseState.None) revert LeaseExists(leaseNo);
        Orders.requireFit(ask, bid, draft.seat, FEE_BPS);
        _requireLive(draft.provider, ask.salt);
        _requireSignature(draft.provider, draft.askHash, order.askSignature);
        _requireSignature(draft.buyer, draft.bidHash, order.bidSignature);
        Prices memory prices = _prices(order, ask, draft.askHash);
        draft.rate = Orders.rate(prices, bid);
        Orders.requireWithinLimits(bid, ask.tier, prices, draft.rate);
        _fund(draft, ask, bid, prices, _takeSeat(draft, order));

        _debit(draft.buyer, draft.locked);
        _reserve(draft.provider, draft.node, draft.gpuMilli, ask.gpuMilli);
        box.slot = _slotOf(draft);
        _emitOpened(draft);
        if (draft.nodes > 1) emit OpenedSeat(leaseNo, draft.bidHash, draft.seat);
        if (draft.hasCounted) {
            box.counted = CountedSlots.pack(prices.egressGib, prices.unit, bid.egressMib, bid.units);
            emit OpenedCounted(leaseNo, prices.egressGib, prices.unit, bid.egressMib, bid.units);
        }
    }

    /// @inheritdoc IEscrowCore
    /// @dev Each item is a call of this code by this code for the same sender, so that a failure undoes it alone.
    function openBatch(Match[] calldata orders) external returns (bytes memory skipped) {
        Check.atMost(MAX_OPENS, orders.length, BatchTooLarge.selector);
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
        draft.buyer = bid.buyer;
        draft.provider = ask.provider;
        draft.witness = bid.witness;
        draft.meter = ask.meter;
        draft.bidHash = Orders.hash(bid);
        draft.askHash = Orders.hash(ask);
        draft.gpuMilli = bid.gpuMilli;
        draft.node = ask.node;
        draft.hasCounted = bid.egressMib > 0 || bid.units > 0;
        (draft.nodes, draft.seat) = (bid.nodes, seat);
        draft.bidSalt = bid.salt;
        draft.leaseNo = Orders.leaseNo(Orders.pairHash(draft.bidHash, draft.askHash), draft.meter);
    }

    /// @dev By the account's key, or else by ERC-1271. The key is tried first: asking whether the account has code costs
    /// as much as recovering the signer.
    function _requireSignature(address signer, bytes32 structHash, bytes calldata signature) private view {
        bytes32 digest = _hashTypedDataV4(structHash);
        (address recovered,,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (recovered == signer) return; // no order names account zero, which is what a bad signature recovers
        if (!SignatureChecker.isValidERC1271SignatureNowCalldata(signer, digest, signature)) {
            revert InvalidSignature(signer);
        }
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

    /// @dev Reverts where the account cancelled its order.
    function _requireLive(address account, uint64 salt) private view returns (uint256 bits) {
        (uint256 word, uint256 opened) = _orderBits(salt);
        bits = _orders[account][word];
        if (bits & (opened << 1) != 0 || salt < _accounts[account].ordersFrom) revert CancelledOrder(account, salt);
    }

    /// @dev Takes the bid's seat: for its first lease, or for one that follows the latest, which must have ended.
    /// @return spent Atoms that the seat's earlier leases have paid or may still pay.
    function _takeSeat(Draft memory draft, Match calldata order) private returns (uint256 spent) {
        uint256 bits = _requireLive(draft.buyer, draft.bidSalt);
        bool first = order.previous.provider == address(0);
        if (draft.nodes == 1) {
            return first ? _takeBid(draft, bits) : _follow(draft, order, _bids[draft.bidHash], false);
        }

        BidRecord storage record = _bids[_seatKey(draft.bidHash, draft.seat)];
        if (!first) return _follow(draft, order, record, true);
        if (record.latest != 0) revert SeatTaken(draft.bidHash, draft.seat);
        record.latest = draft.leaseNo;
        if (!_seated[draft.bidHash]) {
            _seated[draft.bidHash] = true;
            _takeBid(draft, bits);
        }
    }

    /// @dev Takes the bid's number, which one bid has alone.
    function _takeBid(Draft memory draft, uint256 bits) private returns (uint256) {
        (uint256 word, uint256 opened) = _orderBits(draft.bidSalt);
        if (bits & opened != 0) revert NonceUsed(draft.buyer, draft.bidSalt);
        _orders[draft.buyer][word] = bits | opened;
        return 0;
    }

    /// @param recorded Whether the record names the latest lease already; else the bid's first one is, whichever it was.
    function _follow(Draft memory draft, Match calldata order, BidRecord storage record, bool recorded)
        private
        returns (uint256 spent)
    {
        bytes32 ordersHash = Orders.pairHash(draft.bidHash, order.previous.askHash);
        bytes16 latest = Orders.leaseNo(ordersHash, order.previous.meter);
        if ((recorded || record.latest != 0) && record.latest != latest) revert NotLatestLease(record.latest, latest);
        LeaseBox storage box = _lease(draft.buyer, order.previous.provider, draft.witness, latest);
        LeaseSlot slot = box.slot;
        LeaseState state = slot.state();
        if (state == LeaseState.None) revert UnknownLease(latest);
        if (state != LeaseState.Closed) Check.atLeast(slot.end(), block.timestamp, LeaseRunning.selector);
        spent = record.spentBefore + _mostReleased(box, slot);
        (record.latest, record.spentBefore) = (draft.leaseNo, uint128(spent));
    }

    /// @dev Funds the bid's longest time and the start allowance, or what the rest of the budget pays for.
    function _fund(Draft memory draft, Ask memory ask, Bid memory bid, Prices memory prices, uint256 spent)
        private
        view
    {
        uint256 budget = bid.budget / bid.nodes;
        budget = budget > spent ? budget - spent : 0;
        uint256 countedLock = Units.countedUp(prices.egressGib, prices.unit, bid.egressMib, bid.units, SCALE);
        Check.atLeast(countedLock, budget, BudgetTooSmall.selector);

        uint256 allowance = ask.startLimitSeconds;
        uint256 funded = _min(bid.maxSeconds + allowance, Orders.MAX_FUNDED_SECONDS);
        funded = _min(funded, Units.affordableSeconds(draft.rate, budget - countedLock, SCALE));
        uint256 least = _max(ask.minSeconds + allowance, 1);
        if (funded < least) {
            Check.fail(Units.costUp(draft.rate, least * Units.MS, SCALE) + countedLock, budget, BudgetTooSmall.selector);
        }

        draft.funded = uint32(funded);
        draft.end = uint40(block.timestamp + funded);
        draft.locked = Units.costUp(draft.rate, funded * Units.MS, SCALE) + countedLock;
    }

    function _slotOf(Draft memory draft) private pure returns (LeaseSlot) {
        return LeaseSlots.pack(draft.rate, draft.end, draft.funded, draft.gpuMilli, draft.node, draft.hasCounted);
    }

    /// @dev All from one struct: the compiler's stack holds no more beside the event's fourteen values.
    function _emitOpened(Draft memory draft) private {
        emit Opened(
            draft.leaseNo,
            draft.buyer,
            draft.provider,
            draft.witness,
            draft.meter,
            draft.bidHash,
            draft.askHash,
            draft.rate,
            draft.gpuMilli,
            draft.node,
            draft.end,
            draft.funded,
            draft.locked,
            draft.bidSalt
        );
    }
}
