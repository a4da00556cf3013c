// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    Counted,
    IEscrowExtension,
    Lease,
    LeaseKey,
    Numbered,
    Prices,
    Quote,
    Terms
} from "../interfaces/IComputeEscrow.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Orders} from "../libraries/Orders.sol";
import {Units} from "../libraries/Units.sol";
import {Extended} from "./Extended.sol";

/// @title Views
/// @notice What storage says, unpacked.
abstract contract Views is Extended, IEscrowExtension {
    /// @inheritdoc IEscrowExtension
    function feesOf(address provider) external view returns (uint256) {
        return _accounts[provider].fees;
    }

    /// @inheritdoc IEscrowExtension
    function saltsFrom(address account, Numbered kind) external view returns (uint64) {
        return _saltsFrom(account, kind);
    }

    /// @inheritdoc IEscrowExtension
    function saltState(address account, Numbered kind, uint64 salt) external view returns (bool used, bool cancelled) {
        (uint256 word, uint256 usedBit) = _saltBits(kind, salt);
        uint256 bits = _salts[account][word];
        used = bits & usedBit != 0;
        cancelled = bits & (usedBit << 1) != 0 || salt < _saltsFrom(account, kind);
    }

    /// @inheritdoc IEscrowExtension
    function bidRecord(bytes32 bidHash, uint16 seat) external view returns (bytes16, uint128) {
        BidRecord memory record = _bids[_seatKey(bidHash, seat)];
        return (record.latest, record.spentBefore);
    }

    /// @inheritdoc IEscrowExtension
    function capacityUsed(address provider, uint24 node) external view returns (uint256) {
        return _capacity[provider][node] & ~CAPACITY_TOUCHED;
    }

    /// @inheritdoc IEscrowExtension
    function lease(LeaseKey calldata key) external view returns (Lease memory view_) {
        LeaseBox storage box = _lease(key);
        LeaseSlot slot = box.slot;
        view_.state = slot.state();
        view_.hasCounted = slot.hasCounted();
        view_.again = slot.again();
        view_.rate = uint64(slot.rate());
        view_.usedMs = uint64(slot.usedMs());
        view_.start = uint40(slot.start());
        view_.end = uint40(slot.end());
        view_.fundedSeconds = uint32(slot.funded());
        view_.startSeconds = uint16(slot.startSeconds());
        view_.gpuMilli = uint32(slot.gpuMilli());
        view_.node = slot.node();
        view_.released = _released(box, slot);
        view_.locked = _mostReleased(box, slot) - view_.released;
    }

    /// @inheritdoc IEscrowExtension
    function counted(LeaseKey calldata key) external view returns (Counted memory) {
        CountedSlot slot = _lease(key).counted;
        return Counted({
            egressGib: uint64(slot.egressPrice()),
            unit: uint64(slot.unitPrice()),
            egressMib: uint32(slot.egressUsed()),
            units: uint32(slot.unitsUsed()),
            egressMibCap: uint32(slot.egressCap()),
            unitsCap: uint32(slot.unitsCap())
        });
    }

    /// @inheritdoc IEscrowExtension
    function terms() external view returns (Terms memory) {
        return Terms(address(TOKEN), FEE_BPS, FEE_RECIPIENT, SETTLE_WINDOW);
    }

    /// @inheritdoc IEscrowExtension
    function hashAsk(Ask memory ask) external pure returns (bytes32) {
        return Orders.hash(ask);
    }

    /// @inheritdoc IEscrowExtension
    function hashBid(Bid memory bid) external pure returns (bytes32) {
        return Orders.hash(bid);
    }

    /// @inheritdoc IEscrowExtension
    function hashQuote(Quote memory quote) external pure returns (bytes32) {
        return Orders.hash(quote);
    }

    /// @inheritdoc IEscrowExtension
    function hashPrices(Prices memory prices) external pure returns (bytes32) {
        return Orders.hash(prices);
    }

    /// @inheritdoc IEscrowExtension
    function leaseNoOf(bytes32 bidHash, bytes32 askHash, bytes32 pricesHash, uint16 seat, address meter)
        external
        pure
        returns (bytes16)
    {
        return Orders.leaseNo(Orders.termsHash(bidHash, askHash, pricesHash, seat), meter);
    }

    /// @inheritdoc IEscrowExtension
    function cost(uint64 rate, uint64 ms) external view returns (uint256) {
        return Units.costDown(rate, ms, SCALE);
    }
}
