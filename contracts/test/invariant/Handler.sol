// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow} from "../../src/interfaces/IComputeEscrow.sol";
import {Actors} from "./Actors.sol";
import {MoodyToken} from "./MoodyToken.sol";
import {AttackActions} from "./actions/AttackActions.sol";
import {EndActions} from "./actions/EndActions.sol";
import {FundsActions} from "./actions/FundsActions.sol";
import {OrderActions} from "./actions/OrderActions.sol";
import {PurseActions} from "./actions/PurseActions.sol";
import {UsageActions} from "./actions/UsageActions.sol";

/// @notice Honest and malicious actors. Each action says beforehand whether the escrow must go along, and reverts where it
/// does otherwise.
contract Handler is FundsActions, PurseActions, OrderActions, UsageActions, EndActions, AttackActions {
    constructor(MoodyToken token, IComputeEscrow escrow, uint256 deployerKey, uint256 feeRecipientKey)
        Actors(token, escrow, deployerKey, feeRecipientKey)
    {}

    /// @notice Every action; those without which courses would be dull more than once.
    function actions() external pure returns (bytes4[] memory all) {
        bytes4[35] memory once = [
            this.deposit.selector,
            this.depositFor.selector,
            this.depositWithPermit.selector,
            this.depositWithAuthorization.selector,
            this.withdraw.selector,
            this.withdrawBySignature.selector,
            this.createPurse.selector,
            this.fundPurse.selector,
            this.sweepPurse.selector,
            this.expirePurse.selector,
            this.multicall.selector,
            this.collectFees.selector,
            this.donate.selector,
            this.refuse.selector,
            this.wait_.selector,
            this.open.selector,
            this.follow.selector,
            this.openSeat.selector,
            this.openAll.selector,
            this.openBatch.selector,
            this.openBadly.selector,
            this.cancel.selector,
            this.topUp.selector,
            this.topUpBySignature.selector,
            this.settle.selector,
            this.settleMetered.selector,
            this.relay.selector,
            this.stop.selector,
            this.stopBySignature.selector,
            this.free.selector,
            this.close.selector,
            this.refund.selector,
            this.callExtension.selector,
            this.ownIt.selector,
            this.misname.selector
        ];
        bytes4[11] memory again = [
            this.wait_.selector,
            this.open.selector,
            this.open.selector,
            this.follow.selector,
            this.cancel.selector,
            this.topUp.selector,
            this.topUpBySignature.selector,
            this.stop.selector,
            this.settle.selector,
            this.settleMetered.selector,
            this.relay.selector
        ];
        all = new bytes4[](once.length + again.length);
        for (uint256 i = 0; i < all.length; i++) {
            all[i] = i < once.length ? once[i] : again[i - once.length];
        }
    }
}
